# The trainer with TensorFlow for CPUs; Dockerfile.gpu is the same with TensorFlow for NVIDIA's GPUs, and a test holds
# them together. Good for Docker's classic builder and for BuildKit. A base of your own needs Python 3.11 to 3.13 with pip.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# Dependencies, each with its hash, in a layer of their own: a change of code leaves it as it is.
COPY requirements.txt /opt/flatfab/
RUN python -m pip install --no-cache-dir --require-hashes --requirement /opt/flatfab/requirements.txt

# What a run writes goes to /work and /tmp, whoever it runs as and though the rest of the system be read-only.
ENV PYTHONPATH=/opt/flatfab PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp FLATFAB_HEARTBEAT=/tmp/heartbeat
RUN mkdir --mode=1777 /work
WORKDIR /work
VOLUME ["/work", "/tmp"]

COPY variant_config.json /opt/flatfab/
COPY data /opt/flatfab/data
COPY networks /opt/flatfab/networks
COPY trainer /opt/flatfab/trainer
RUN chmod --recursive a+rX /opt/flatfab

ARG REVISION=""
ARG VERSION=""
LABEL org.opencontainers.image.title="flatfab" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
ENV FLATFAB_REVISION=${REVISION}

USER 10001:10001
HEALTHCHECK --interval=30s --timeout=20s --start-period=2m CMD ["python", "-m", "trainer.heartbeat"]
ENTRYPOINT ["python", "-m", "trainer"]
