# syntax=docker/dockerfile:1
# The coordinator, and with `--target demos` the demos' services. deploy/check.sh lints this file.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# What cargo fetches and builds stays between builds; only the programs leave.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --package concord-coordinator --bin concord && \
    install -D target/release/concord /out/concord && \
    mkdir /out/data

FROM build AS build-demos
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --package bank-transfer --package order-stock && \
    install -D target/release/bank-transfer target/release/order-stock --target-directory /out

# libc, libm and libgcc_s are all that the programs need; no shell, no package manager. Debian 12, as above.
FROM gcr.io/distroless/cc-debian12:nonroot AS demos
COPY --from=build-demos /out/bank-transfer /out/order-stock /usr/local/bin/

FROM gcr.io/distroless/cc-debian12:nonroot AS concord
COPY --from=build /out/concord /usr/local/bin/concord
# A new volume takes its owner from here.
COPY --from=build --chown=nonroot:nonroot /out/data /var/lib/concord
# It listens on all addresses of the container, and then wants TLS and tokens, or to be told CONCORD_SECURITY_ALLOW_INSECURE=true.
ENV CONCORD_SERVER_LISTEN=0.0.0.0:7600 \
    CONCORD_STORE_DATA_DIR=/var/lib/concord/data
VOLUME /var/lib/concord
EXPOSE 7600
# No HEALTHCHECK: whether it answers depends on its certificate and on who may ask. docs/operations.md has what to run.
ENTRYPOINT ["concord"]
CMD ["serve"]
