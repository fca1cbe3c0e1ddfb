# One image, several commands: docker-compose.yml has them.
#
#   docker build --tag lorabel:cpu .
#   docker build --tag lorabel:cuda --build-arg TORCH=cuda .
#
# TORCH=cpu     torch without CUDA packages; uv knows where its makers keep those wheels
# TORCH=cuda    the package registry's own build, which brings the CUDA libraries with it
# TORCH=cu126   or any other name that `uv pip install --torch-backend` takes
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
ARG UV=0.13.9
ENV VIRTUAL_ENV=/venv UV_LINK_MODE=copy UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir "uv==${UV}" && uv venv "$VIRTUAL_ENV"
WORKDIR /app
# The lock also has what only development needs, so it limits versions and does not choose packages.
COPY pyproject.toml requirements.lock ./
RUN if [ "$TORCH" = cuda ]; then unset TORCH; fi; \
    uv pip install ${TORCH:+--torch-backend "$TORCH"} --constraints requirements.lock -r pyproject.toml
COPY README.md LICENSE ./
COPY lorabel lorabel
COPY backend backend
COPY model_server model_server
COPY workers workers
RUN uv pip install --build-constraints requirements.lock --no-deps --editable .

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --create-home lorabel && install --directory --owner=lorabel --group=lorabel /data /hub
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE \
    DATA_DIR=/data HF_HOME=/hub HOST=0.0.0.0 MODEL_SERVER_HOST=0.0.0.0
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app
USER 1000:1000
VOLUME ["/data", "/hub"]
EXPOSE 9090 9191
CMD ["gunicorn", "--config", "backend/gunicorn.conf.py"]
