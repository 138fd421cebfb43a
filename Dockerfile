# The trainer with TensorFlow for CPUs; Dockerfile.gpu is the same with TensorFlow for NVIDIA's GPUs, and a test holds
# the two together. For Docker's classic builder and BuildKit. A base of your own needs Python 3.11 to 3.13 with pip.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS packages

# Dependencies, each with its hash, in an environment of their own, which a change of code leaves as it is. Headers and
# the tests of packages, a sixth of the whole, are for those who compile or develop them. The address of an index, with
# what lets one in, is known to this stage alone: the image has neither its layers nor its history. CA_CERTIFICATES are
# trusted beside the public ones; pip prefers REQUESTS_CA_BUNDLE, which a base may set, to PIP_CERT.
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_TRUSTED_HOST=""
ARG CA_CERTIFICATES=""
COPY requirements-build.txt requirements.txt /opt/flatfab/
RUN python -m venv /opt/venv \
    && if [ -n "${CA_CERTIFICATES}" ]; then \
        cat "$(/opt/venv/bin/python -c 'import pip._vendor.certifi; print(pip._vendor.certifi.where())')" > /tmp/ca.pem \
        && echo "${CA_CERTIFICATES}" >> /tmp/ca.pem && export PIP_CERT=/tmp/ca.pem REQUESTS_CA_BUNDLE=/tmp/ca.pem; \
    fi \
    && /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes \
        --requirement /opt/flatfab/requirements-build.txt \
    && /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation --require-hashes \
        --requirement /opt/flatfab/requirements.txt \
    && /opt/venv/bin/python -m pip check \
    && find "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" -type d \
        \( -name tests -o -path '*/tensorflow/include' \) -prune -exec rm -r {} +

FROM ${BASE}
COPY --from=packages /opt/venv /opt/venv

# A run writes to /work and /tmp alone, whoever it runs as, though the rest of the system be read-only.
ENV PATH="/opt/venv/bin:${PATH}" \
    PYTHONPATH=/opt/flatfab \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    FLATFAB_HEARTBEAT=/tmp/heartbeat
RUN mkdir -p /work && chmod 1777 /work
WORKDIR /work
VOLUME ["/work", "/tmp"]

COPY variant_config.json /opt/flatfab/
COPY data /opt/flatfab/data
COPY networks /opt/flatfab/networks
COPY trainer /opt/flatfab/trainer
RUN python -m compileall -q -j 0 /opt/flatfab && chmod -R a+rX /opt/flatfab

ARG REVISION=""
ARG VERSION=""
ENV FLATFAB_REVISION=${REVISION}
LABEL org.opencontainers.image.title="flatfab" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"

USER 10001:10001
HEALTHCHECK --interval=30s --timeout=20s --start-period=2m CMD ["python", "-m", "trainer.runtime.heartbeat"]
ENTRYPOINT ["python", "-m", "trainer"]
