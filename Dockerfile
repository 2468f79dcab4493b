# The image of Logwarden: Python and a virtual environment whose every file is pinned by hash; what built it stays in the first stage.
# `.ci/image` builds it and runs it as k8s/base does. For a release, give BASE_IMAGE with its digest, VERSION and REVISION.
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build

# Bytecode is compiled here, as the running container can write none. UNCHECKED_HASH: it stays valid whatever happens to
# the files' dates on their way through layers.
ENV UV_COMPILE_BYTECODE=1 \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never

WORKDIR /src

COPY requirements-build.txt ./
RUN python -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-build.txt

COPY requirements.txt ./
RUN python -m venv --without-pip /opt/logwarden \
 && /build/bin/uv pip install --python /opt/logwarden --require-hashes --only-binary :all: --requirement requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN /build/bin/hatchling build -t wheel -d /dist \
 && /build/bin/uv pip install --python /opt/logwarden --no-deps /dist/*.whl \
 && /build/bin/uv pip check --python /opt/logwarden


FROM ${BASE_IMAGE}

ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="logwarden" \
      org.opencontainers.image.description="Keeps every Amazon CloudWatch log group encrypted under its own tenant's KMS key" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/logwarden /opt/logwarden

ENV PATH=/opt/logwarden/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

# A number, as runAsNonRoot can check no name; the same as in k8s/base.
USER 10001:10001
EXPOSE 8080

# Exec form: Python itself is process 1 and hears SIGTERM, which starts the drain.
STOPSIGNAL SIGTERM
ENTRYPOINT ["logwarden"]
CMD ["run"]
