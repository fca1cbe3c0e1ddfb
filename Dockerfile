# One image for all processes of Lorabel; docker-compose.yml has the commands.
#
#   docker build --tag lorabel:cpu .
#   docker build --tag lorabel:cuda --build-arg TORCH=cuda .
#
# TORCH=cpu     torch without CUDA, from PyTorch's own index, whose address uv knows
# TORCH=cuda    torch from the package registry, which depends on the CUDA libraries
# TORCH=cu126   or another value of `uv pip install --torch-backend`
# EXTRAS=tracking   TensorBoard, Weights & Biases and MLflow, for TRACKER; EXTRAS=presidio for REDACT
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
ARG EXTRAS=
ARG UV=0.13.9
ENV VIRTUAL_ENV=/venv UV_LINK_MODE=copy UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir "uv==${UV}" && uv venv "$VIRTUAL_ENV"
WORKDIR /app
# The lock also contains development packages, so it is used for versions only (as constraints).
COPY pyproject.toml requirements.lock ./
RUN if [ "$TORCH" = cuda ]; then unset TORCH; fi; \
    uv pip install ${TORCH:+--torch-backend "$TORCH"} --constraints requirements.lock \
    ${EXTRAS:+--extra "$EXTRAS"} -r pyproject.toml
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
