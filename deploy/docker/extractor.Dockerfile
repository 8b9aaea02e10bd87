# The extractor: `extractor`; its Dask scheduler is the same image with another entry point, `dask scheduler`.
# Built at the root of the repository:
#   docker build -f deploy/docker/extractor.Dockerfile -t engram-extractor:0.1.0 .
ARG PYTHON=python:3.12-slim-bookworm

# Libraries of the lock: a layer that changes with requirements/extractor.txt alone.
FROM ${PYTHON} AS libraries
WORKDIR /src
COPY requirements/extractor.txt requirements/
COPY deploy/docker/build.txt deploy/docker/install.sh deploy/docker/
# [tool.uv] there says how sam2 is built: after torch, from source, without a compiler.
COPY pyproject.toml ./
# The cache lies on another filesystem than /opt: nothing can be linked.
ENV UV_LINK_MODE=copy UV_CACHE_DIR=/var/cache/uv
RUN --mount=type=cache,target=/var/cache/uv deploy/docker/install.sh extractor /opt/engram libraries

# Engram itself: the small layer that changes with every commit.
FROM libraries AS programs
COPY pyproject.toml README.md LICENSE ./
COPY store_schema store_schema
COPY extractor extractor
COPY trainer trainer
COPY services services
RUN --mount=type=cache,target=/var/cache/uv deploy/docker/install.sh extractor /opt/engram programs /opt/programs

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="engram-extractor" \
      org.opencontainers.image.description="Mask-aware memory embeddings of PET/CT into a feature store" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# No installer stays; the standard library is compiled, since a read-only container could not keep what it compiles.
RUN python -m pip uninstall --quiet --yes --root-user-action ignore pip \
 && rm -rf /usr/local/lib/python3.12/ensurepip \
 && python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.12 \
 && groupadd --gid 10001 engram \
 && useradd --uid 10001 --gid engram --no-log-init --no-create-home --home-dir /srv/engram --shell /usr/sbin/nologin engram \
 && install -d -o engram -g engram /srv/engram /var/cache/engram /etc/engram/tls
COPY --from=libraries /opt/engram /opt/engram
COPY --from=programs /opt/programs /opt/engram
# PyPI's torch brings CUDA: only the driver comes from outside, by the container runtime, which reads NVIDIA_…
# Whatever a library wants to keep between two runs goes to the one folder that is for it; nothing else has to be writable but /tmp.
ENV PATH=/opt/engram/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/srv/engram \
    XDG_CACHE_HOME=/var/cache/engram \
    MPLCONFIGDIR=/var/cache/engram/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /srv/engram
# A command that is process 1 hears no SIGTERM unless it asks for it: run it with `--init` (compose: `init: true`).
ENTRYPOINT ["extractor"]
CMD ["--help"]
