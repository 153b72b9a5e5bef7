# The hub as a container: `docker build -t push-hub .`; settings are HUB_* variables (docs/operations.md).

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY hub hub
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[server]" \
    && useradd --system --no-create-home --uid 10001 hub
USER hub
WORKDIR /tmp
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
# Asks only if the process answers. /readyz, which also asks Redis, is for readiness probes and alerts: a
# container restarted because Redis is away would only lose its viewers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# At SIGTERM the hub drains its viewers over HUB_DRAIN (20 s) and ends: wait 30 s before SIGKILL.
ENTRYPOINT ["push-hub"]
CMD ["serve", "--host", "0.0.0.0"]
