# One image per service: `docker build --target gateway .` (targets: gateway, runner, reward, credit, registry,
# learner, inference, cli). Each holds only its own extra's dependencies; the code of Leyden is one shared layer.
# The base image is yours to choose: any image with Python 3.11 or newer as `python`, with pip and venv.
ARG BASE_IMAGE=python:3.11-slim

# The code, without dependencies. Installed beside the environments, so a change of code reinstalls nothing else.
FROM ${BASE_IMAGE} AS code
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY libs libs
COPY services services
COPY jobs jobs
COPY deploy/local deploy/local
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m venv /tmp/venv && /tmp/venv/bin/pip install --no-deps --target /opt/leyden .

# An environment that finds the code through a .pth file; the stages below add one service's dependencies each.
FROM ${BASE_IMAGE} AS environment
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/docker/requirements.py ./
RUN python -m venv /opt/venv \
    && echo /opt/leyden > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/leyden.pth"
ENV PATH=/opt/venv/bin:$PATH

FROM environment AS gateway-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py gateway > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

FROM environment AS runner-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py runner > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

FROM environment AS reward-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py reward > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

FROM environment AS credit-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py credit > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

FROM environment AS registry-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py registry > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

# LEARNER_EXTRA=verl LEARNER_CONSTRAINTS=constraints-verl.txt adds the verl backend.
FROM environment AS learner-environment
ARG LEARNER_EXTRA
ARG LEARNER_CONSTRAINTS=constraints.txt
COPY constraints-verl.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py "${LEARNER_EXTRA:-learner}" > requirements.txt \
    && pip install --requirement requirements.txt --constraint "${LEARNER_CONSTRAINTS}"

FROM environment AS inference-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py inference > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

FROM environment AS cli-environment
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    python requirements.py replay > requirements.txt \
    && pip install --requirement requirements.txt --constraint constraints.txt

# What every service runs in. /app/user is for the user's agents and rewards, mounted or copied there.
FROM ${BASE_IMAGE} AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin leyden \
    && install --directory --owner=leyden --group=leyden /app/user /var/lib/leyden /var/lib/leyden/checkpoints /var/lib/leyden/spool
COPY deploy/docker/healthcheck.py /app/healthcheck.py
COPY --from=code /opt/leyden /opt/leyden
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1 \
    LEYDEN_CATALOGUE_PATH='["/app/user"]'
WORKDIR /app
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/app/healthcheck.py"]

FROM runtime AS gateway
COPY --from=gateway-environment /opt/venv /opt/venv
EXPOSE 8000
ENTRYPOINT ["python", "-m", "leyden_gateway"]

FROM runtime AS runner
COPY --from=runner-environment /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "leyden_runner"]

FROM runtime AS reward
COPY --from=reward-environment /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "leyden_reward"]

FROM runtime AS credit
COPY --from=credit-environment /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "leyden_credit"]

FROM runtime AS registry
COPY --from=registry-environment /opt/venv /opt/venv
EXPOSE 8002
ENTRYPOINT ["python", "-m", "leyden_registry"]

FROM runtime AS learner
COPY --from=learner-environment /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "leyden_learner"]

FROM runtime AS inference
COPY --from=inference-environment /opt/venv /opt/venv
EXPOSE 8001
ENTRYPOINT ["python", "-m", "leyden_inference"]

# `leyden topics create`, `leyden models import`, `leyden replay`: one-shot jobs, so nothing to probe.
FROM runtime AS cli
COPY --from=cli-environment /opt/venv /opt/venv
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "leyden.cli"]
