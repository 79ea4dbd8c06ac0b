# One image for every process of the distributed deployment; the command says which.
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv mosquitto \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home --home-dir /var/lib/yizhan yizhan
WORKDIR /opt/yizhan
COPY requirements.lock pyproject.toml README.md ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY vitals vitals
COPY gateway gateway
COPY ingest ingest
COPY rules rules
COPY care care
COPY api api
COPY firmware_sim firmware_sim
COPY yizhan yizhan
COPY bench bench
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .
ENV PATH=/opt/venv/bin:$PATH YIZHAN_DATA_DIR=/var/lib/yizhan
USER yizhan
ENTRYPOINT ["yizhan"]
CMD ["check"]
