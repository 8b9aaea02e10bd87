# The feature store service: `feature-store`.
# Built at the root of the repository:
#   docker build -f deploy/docker/service.Dockerfile -t engram-service:0.1.0 .
ARG PYTHON=python:3.12-slim-bookworm

# Libraries of the lock: a layer that changes with requirements/service.txt alone.
FROM ${PYTHON} AS libraries
WORKDIR /src
COPY requirements/service.txt requirements/
COPY deploy/docker/build.txt deploy/docker/install.sh deploy/docker/
# The cache lies on another filesystem than /opt: nothing can be linked.
ENV UV_LINK_MODE=copy UV_CACHE_DIR=/var/cache/uv
RUN --mount=type=cache,target=/var/cache/uv deploy/docker/install.sh service /opt/engram libraries

# Engram itself: the small layer that changes with every commit.
FROM libraries AS programs
COPY pyproject.toml README.md LICENSE ./
COPY store_schema store_schema
COPY extractor extractor
COPY trainer trainer
COPY services services
RUN --mount=type=cache,target=/var/cache/uv deploy/docker/install.sh service /opt/engram programs /opt/programs

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="engram-service" \
      org.opencontainers.image.description="Feature stores of PET/CT embeddings shared over HTTP" \
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
# Whatever a library wants to keep between two runs goes to the one folder that is for it; nothing else has to be writable but /tmp.
ENV PATH=/opt/engram/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/srv/engram \
    XDG_CACHE_HOME=/var/cache/engram \
    ENGRAM_SERVICE_HOST=0.0.0.0
USER 10001:10001
WORKDIR /srv/engram
EXPOSE 8000
# Ready is more than alive: the database answers. Asked without a proxy, whatever the environment names.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
  CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('ENGRAM_SERVICE_PORT', 8000)), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
# feature-store takes SIGTERM itself and answers what is under way, for at most 30 seconds.
ENTRYPOINT ["feature-store"]
CMD ["serve"]
