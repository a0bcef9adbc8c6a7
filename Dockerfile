# One image per service: docker build --target router -t glinthawk-router .
#
# Torch's CPU wheels are far smaller than its CUDA ones. To have them in the worker images, name an
# index that carries them: --build-arg PIP_EXTRA_INDEX_URL=...

FROM python:3.11-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
RUN useradd --uid 10001 --create-home glinthawk \
    && install --directory --owner=glinthawk /data
COPY pyproject.toml ./

# Installs what the project and the extra $1 depend on; the project itself runs from /app.
COPY --chmod=755 <<'EOF' /usr/local/bin/install-extra
#!/usr/bin/env python
import subprocess, sys, tomllib
with open("/app/pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
wanted = project["dependencies"] + project["optional-dependencies"][sys.argv[1]]
subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True)
EOF

# Starts a service. A container goes by its own name, since every process in one has the same id,
# and peers reach it at its own address, on the port that it has bound.
COPY --chmod=755 <<'EOF' /usr/local/bin/serve
#!/bin/sh
: "${GLINTHAWK_WORKER_ID:=$(hostname)}"
: "${GLINTHAWK_ADVERTISE:=tcp://$(hostname -i | cut -d ' ' -f 1):*}"
export GLINTHAWK_WORKER_ID GLINTHAWK_ADVERTISE
exec python -m "$@"
EOF
ENV GLINTHAWK_BIND=tcp://0.0.0.0:7400


FROM base AS router
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN install-extra router
COPY common common
COPY services/__init__.py services/
COPY services/router services/router
USER glinthawk
ENV GLINTHAWK_ROUTER__HTTP_HOST=0.0.0.0 GLINTHAWK_ROUTER__DATA_DIRECTORY=/data
VOLUME /data
EXPOSE 7400 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/livez')"]
ENTRYPOINT ["serve", "services.router"]


FROM base AS kv-manager
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN install-extra kv-manager
COPY common common
COPY services/__init__.py services/
COPY services/kv_manager services/kv_manager
USER glinthawk
EXPOSE 7400
ENTRYPOINT ["serve", "services.kv_manager"]


# The kernels for every instruction set; a worker chooses when it starts.
FROM base AS kernels
ARG PIP_INDEX_URL
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && pip install "setuptools>=77"
COPY README.md setup.py ./
COPY services/__init__.py services/
COPY services/attention_worker services/attention_worker
COPY services/layer_worker services/layer_worker
RUN python setup.py build_ext --inplace


FROM base AS layer-worker
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN install-extra layer-worker
COPY common common
COPY services/__init__.py services/
COPY services/layer_worker services/layer_worker
COPY --from=kernels /app/services/layer_worker/kernels/libglinthawk_rows.so \
    services/layer_worker/kernels/
USER glinthawk
EXPOSE 7400
ENTRYPOINT ["serve", "services.layer_worker"]


FROM base AS attention-worker
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN install-extra attention-worker
COPY common common
COPY services/__init__.py services/
COPY services/attention_worker services/attention_worker
COPY --from=kernels /app/services/attention_worker/kernels/libglinthawk_attention.so \
    services/attention_worker/kernels/
USER glinthawk
EXPOSE 7400
ENTRYPOINT ["serve", "services.attention_worker"]


# The command line, to speak to a router elsewhere. It computes nothing and has no torch.
FROM base AS admin
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN install-extra admin
COPY common common
COPY services services
USER glinthawk
WORKDIR /data
ENV PYTHONPATH=/app
ENTRYPOINT ["python", "-m", "services.admin"]
