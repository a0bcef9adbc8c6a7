# One image per service:
#
#     docker build --target router --tag glinthawk-router .
#
# Build arguments: DEVICE=cuda for layer workers on GPUs; PIP_INDEX_URL and PIP_EXTRA_INDEX_URL where
# packages come from elsewhere, such as an index with torch's small builds for CPUs; BASE to name the base
# image by its digest.
#
# Dependencies are installed beside the application and copied into images that have nothing but Python: no
# shell, and a compiler for GPUs alone. The same base image, sources and versions give the same files.

ARG BASE=python:3.11-slim

FROM ${BASE} AS base
# The day of its making is kept with a user; it shall not be the day of the build.
ARG SOURCE_DATE_EPOCH=0
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PATH=/opt/venv/bin:$PATH
WORKDIR /app
RUN groupadd --gid 10001 glinthawk \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent glinthawk \
    && install --directory --owner=10001 --group=10001 --mode=700 /data /keys
LABEL org.opencontainers.image.title="Glinthawk" \
    org.opencontainers.image.description="Two-tier offline LLM inference" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT"


FROM base AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml ./
COPY deploy/docker /install
# Files of a checkout have any times, so that Python's caches go by content.
ENV COMPILE="python -m compileall -q --invalidation-mode unchecked-hash"


FROM build AS router-files
RUN python /install/install.py /opt/venv router structured
COPY common common
COPY services/__init__.py services/
COPY services/router services/router
RUN $COMPILE /app


FROM build AS kv-manager-files
RUN python /install/install.py /opt/venv kv-manager
COPY common common
COPY services/__init__.py services/
COPY services/kv_manager services/kv_manager
RUN $COMPILE /app


# The kernels of both tiers, for every instruction set: a worker chooses when it starts.
FROM build AS kernels
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python /install/install.py /opt/venv kernels
COPY README.md setup.py ./
COPY services/__init__.py services/
COPY services/attention_worker/kernels services/attention_worker/kernels
COPY services/layer_worker/kernels services/layer_worker/kernels
RUN python setup.py build_ext --inplace


FROM build AS layer-worker-files
ARG DEVICE=cpu
RUN python /install/install.py /opt/venv layer-worker structured
COPY common common
COPY services/__init__.py services/
COPY services/layer_worker services/layer_worker
COPY --from=kernels /app/services/layer_worker/kernels/libglinthawk_rows.so \
    services/layer_worker/kernels/
RUN $COMPILE /app


# With its kernels, an attention worker has no use for torch.
FROM build AS attention-worker-files
RUN python /install/install.py /opt/venv kv-manager
COPY common common
COPY services/__init__.py services/
COPY services/attention_worker services/attention_worker
COPY --from=kernels /app/services/attention_worker/kernels/libglinthawk_attention.so \
    services/attention_worker/kernels/
RUN $COMPILE /app


# The command line, to speak to a router elsewhere. It computes nothing and has no torch.
FROM build AS admin-files
RUN python /install/install.py /opt/venv admin
COPY common common
COPY services services
RUN $COMPILE /app


# Nothing that runs calls a shell, so that nobody else needs to find one either. For GPUs kernels are compiled
# where they run, which takes a C compiler.
FROM base AS bare
ARG DEVICE=cpu
# hadolint ignore=DL3008
RUN if [ "$DEVICE" = cuda ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && rm -f /bin/bash /bin/dash /bin/sh


FROM bare AS service
USER 10001:10001
ENV GLINTHAWK_BIND=tcp://0.0.0.0:7400 \
    GLINTHAWK_METRICS_HOST=0.0.0.0 \
    GLINTHAWK_METRICS_PORT=9400
EXPOSE 7400 9400
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-m", "common.runtime.probe", "http://127.0.0.1:9400/readyz"]


FROM service AS router
COPY --from=router-files /opt/venv /opt/venv
COPY --from=router-files /app /app
ENV GLINTHAWK_ROUTER__HTTP_HOST=0.0.0.0 \
    GLINTHAWK_ROUTER__DATA_DIRECTORY=/data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-m", "common.runtime.probe", "http://127.0.0.1:8000/livez"]
ENTRYPOINT ["python", "-m", "services.router"]


FROM service AS kv-manager
COPY --from=kv-manager-files /opt/venv /opt/venv
COPY --from=kv-manager-files /app /app
ENTRYPOINT ["python", "-m", "services.kv_manager"]


FROM service AS layer-worker
ENV TRITON_CACHE_DIR=/tmp/triton
COPY --from=layer-worker-files /opt/venv /opt/venv
COPY --from=layer-worker-files /app /app
ENTRYPOINT ["python", "-m", "services.layer_worker"]


FROM service AS attention-worker
COPY --from=attention-worker-files /opt/venv /opt/venv
COPY --from=attention-worker-files /app /app
ENTRYPOINT ["python", "-m", "services.attention_worker"]


FROM bare AS admin
COPY --from=admin-files /opt/venv /opt/venv
COPY --from=admin-files /app /app
USER 10001:10001
WORKDIR /work
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "services.admin"]
