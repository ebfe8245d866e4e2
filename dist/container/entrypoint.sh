#!/bin/sh
# Makes a configuration at the first start, from CLUSTER_* variables, and becomes the program.
set -eu

if [ "${1:-}" = daemon ] && [ ! -e "$IPFS_CLUSTER_PATH/service.json" ]; then
    ipfs-cluster-service init --consensus "${IPFS_CLUSTER_CONSENSUS:-crdt}" ${IPFS_CLUSTER_DATASTORE:+--datastore "$IPFS_CLUSTER_DATASTORE"}
fi
exec ipfs-cluster-service "$@"
