"""A query that is given to the database's driver as it is, for what every request reads."""

from typing import Any

from sqlalchemy import Engine, Select
from sqlalchemy.pool import PoolProxiedConnection


class PlainQuery:
    """A SELECT, compiled once. Thread-safe.

    Its rows are read in a third of the time that a connection of SQLAlchemy takes, which begins a transaction and
    builds a result object. On PostgreSQL it begins none, so that it takes one round trip.

    The values are the driver's: SQLite has no times, so it returns texts. Compare them with each other only.
    """

    def __init__(self, engine: Engine, statement: Select[Any]) -> None:
        self._engine, self._statement = engine, statement
        compiled = statement.compile(dialect=engine.dialect)
        self._sql, self._names = str(compiled), compiled.positiontup
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._is_postgresql = engine.dialect.name == "postgresql"

    def rows(self, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows.

        Raises:
            DBAPIError: as from any other query.
        """
        values = parameters if self._names is None else [parameters[name] for name in self._names]
        connection = None
        try:
            connection = self._engine.raw_connection()
            return self._read(connection, values)
        except BaseException as error:
            if connection is not None:
                connection.invalidate()  # it may be in the middle of something
            # SQLAlchemy knows what is wrong, and whether the pool has to open new connections.
            if not isinstance(error, self._driver_error):
                raise
        finally:
            if connection is not None:
                connection.close()
        with self._engine.connect() as usual_connection:
            return [tuple(row) for row in usual_connection.execute(self._statement, parameters)]

    def _read(self, connection: PoolProxiedConnection, values: Any) -> list[tuple[Any, ...]]:
        driver_connection: Any = connection.driver_connection
        if self._is_postgresql:
            driver_connection.autocommit = True  # known to the driver alone, the server is not told
        cursor = driver_connection.cursor()
        cursor.execute(self._sql, values)
        rows = cursor.fetchall()
        cursor.close()
        if self._is_postgresql:
            driver_connection.autocommit = False
        return [tuple(row) for row in rows]
