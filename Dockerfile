# The hub as a container: `docker build -t push-hub .`, settings by HUB_* in the environment (docs/operations.md).

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY hub hub
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl \
    && useradd --system --no-create-home --uid 10001 hub
USER hub
WORKDIR /tmp
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
# The process answers; whether Redis does is /readyz, for a readiness probe or an alert. A container that is restarted because
# Redis is away would only lose its viewers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# SIGTERM moves the viewers away over HUB_DRAIN (20 s) and then ends the process: give it 30 s before SIGKILL.
ENTRYPOINT ["push-hub"]
CMD ["serve", "--host", "0.0.0.0"]
