-- PostgreSQL's image runs this once, when its volume is empty. Lorabel's own database is POSTGRES_DB.
CREATE DATABASE label_studio;
