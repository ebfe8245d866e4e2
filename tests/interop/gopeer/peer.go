package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	ipfscluster "github.com/ipfs-cluster/ipfs-cluster"
	"github.com/ipfs-cluster/ipfs-cluster/allocator/balanced"
	"github.com/ipfs-cluster/ipfs-cluster/config"
	"github.com/ipfs-cluster/ipfs-cluster/consensus/crdt"
	"github.com/ipfs-cluster/ipfs-cluster/datastore/inmem"
	"github.com/ipfs-cluster/ipfs-cluster/datastore/leveldb"
	"github.com/ipfs-cluster/ipfs-cluster/informer/disk"
	"github.com/ipfs-cluster/ipfs-cluster/informer/pinqueue"
	"github.com/ipfs-cluster/ipfs-cluster/informer/tags"
	"github.com/ipfs-cluster/ipfs-cluster/monitor/pubsubmon"
	"github.com/ipfs-cluster/ipfs-cluster/observations"
	"github.com/ipfs-cluster/ipfs-cluster/pintracker/stateless"
	ds "github.com/ipfs/go-datastore"
	dual "github.com/libp2p/go-libp2p-kad-dht/dual"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
)

const readyTimeout = 30 * time.Second

// Config is the first line of input. The sections are those of the reference's service.json and are read by its own
// code; what a section does not say has the reference's default.
type Config struct {
	// Seed makes the identity: equal seeds, equal peer ids.
	Seed string `json:"seed"`
	// RSA makes the identity an RSA key of this many bits instead, a new one each time.
	RSA int `json:"rsa"`
	// Folder holds the datastore and the peerstore. Without one they live in memory.
	Folder string `json:"folder"`
	// Join lists addresses that the peer bootstraps from before it says that it is ready.
	Join []string `json:"join"`

	Cluster   json.RawMessage `json:"cluster"`
	CRDT      json.RawMessage `json:"crdt"`
	Monitor   json.RawMessage `json:"pubsubmon"`
	Disk      json.RawMessage `json:"disk"`
	Tags      json.RawMessage `json:"tags"`
	PinQueue  json.RawMessage `json:"pinqueue"`
	Allocator json.RawMessage `json:"balanced"`
	Tracker   json.RawMessage `json:"stateless"`
}

// Peer is the reference's cluster with the parts that commands reach into.
type Peer struct {
	host      host.Host
	dht       *dual.DHT
	store     ds.Datastore
	namespace string
	cluster   *ipfscluster.Cluster
	consensus *crdt.Consensus
	monitor   *pubsubmon.Monitor
	ipfs      *MemoryIPFS
}

// load gives a section of the configuration its defaults and then, key by key, what the line says: the reference's own
// reading takes a key that is missing from an object within a section for zero.
func load(section config.ComponentConfig, raw json.RawMessage) error {
	if err := section.Default(); err != nil || len(raw) == 0 {
		return err
	}
	var keys, said map[string]any
	defaults, err := section.ToJSON()
	if err != nil {
		return err
	}
	if err := errors.Join(json.Unmarshal(defaults, &keys), json.Unmarshal(raw, &said)); err != nil {
		return fmt.Errorf("section %s: %w", section.ConfigKey(), err)
	}
	overlay(keys, said)
	merged, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	if err := section.LoadJSON(merged); err != nil {
		return fmt.Errorf("section %s: %w", section.ConfigKey(), err)
	}
	return nil
}

func overlay(keys, said map[string]any) {
	for key, value := range said {
		below, isObject := keys[key].(map[string]any)
		object, alsoObject := value.(map[string]any)
		if isObject && alsoObject {
			overlay(below, object)
		} else {
			keys[key] = value
		}
	}
}

func identity(cfg *Config) (*config.Identity, error) {
	var key crypto.PrivKey
	var err error
	if cfg.RSA > 0 {
		key, _, err = crypto.GenerateKeyPair(crypto.RSA, cfg.RSA)
	} else {
		seed := sha256.Sum256([]byte(cfg.Seed))
		key, _, err = crypto.GenerateEd25519Key(bytes.NewReader(seed[:]))
	}
	if err != nil {
		return nil, err
	}
	id, err := libp2ppeer.IDFromPrivateKey(key)
	return &config.Identity{ID: id, PrivateKey: key}, err
}

func openStore(folder string) (ds.Datastore, error) {
	if folder == "" {
		return inmem.New(), nil
	}
	cfg := &leveldb.Config{}
	if err := cfg.Default(); err != nil {
		return nil, err
	}
	cfg.Folder = filepath.Join(folder, "leveldb")
	return leveldb.New(cfg)
}

func start(ctx context.Context, line []byte) (*Peer, error) {
	var cfg Config
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	ident, err := identity(&cfg)
	if err != nil {
		return nil, err
	}
	var (
		clusterCfg  ipfscluster.Config
		crdtCfg     crdt.Config
		monitorCfg  pubsubmon.Config
		diskCfg     disk.Config
		tagsCfg     tags.Config
		pinQueueCfg pinqueue.Config
		allocCfg    balanced.Config
		trackerCfg  stateless.Config
		tracingCfg  observations.TracingConfig
	)
	if err := errors.Join(
		load(&clusterCfg, cfg.Cluster),
		load(&crdtCfg, cfg.CRDT),
		load(&monitorCfg, cfg.Monitor),
		load(&diskCfg, cfg.Disk),
		load(&tagsCfg, cfg.Tags),
		load(&pinQueueCfg, cfg.PinQueue),
		load(&allocCfg, cfg.Allocator),
		load(&trackerCfg, cfg.Tracker),
		load(&tracingCfg, nil),
	); err != nil {
		return nil, err
	}
	if cfg.Folder != "" {
		clusterCfg.SetBaseDir(cfg.Folder)
	}
	store, err := openStore(cfg.Folder)
	if err != nil {
		return nil, err
	}

	// From here on as the reference's daemon does it, in its order.
	host, bandwidth, pubsub, dht, err := ipfscluster.NewClusterHost(ctx, ident, &clusterCfg, store)
	if err != nil {
		return nil, err
	}
	tracer, err := observations.SetupTracing(&tracingCfg)
	if err != nil {
		return nil, err
	}
	diskInformer, err := disk.NewInformer(&diskCfg)
	if err != nil {
		return nil, err
	}
	tagsInformer, err := tags.New(&tagsCfg)
	if err != nil {
		return nil, err
	}
	pinQueueInformer, err := pinqueue.New(&pinQueueCfg)
	if err != nil {
		return nil, err
	}
	allocator, err := balanced.New(&allocCfg)
	if err != nil {
		return nil, err
	}
	consensus, err := crdt.New(host, dht, pubsub, &crdtCfg, store)
	if err != nil {
		return nil, err
	}
	tracker := stateless.New(&trackerCfg, host.ID(), clusterCfg.Peername, consensus.State)
	monitor, err := pubsubmon.New(ctx, &monitorCfg, pubsub, nil)
	if err != nil {
		return nil, err
	}
	ipfs := newMemoryIPFS(cfg.Seed)
	cluster, err := ipfscluster.NewCluster(
		ctx, host, bandwidth, dht, &clusterCfg, store, consensus, nil, ipfs, tracker, monitor, allocator,
		[]ipfscluster.Informer{diskInformer, tagsInformer, pinQueueInformer}, tracer,
	)
	if err != nil {
		return nil, err
	}
	peer := &Peer{
		host: host, dht: dht, store: store, namespace: crdtCfg.DatastoreNamespace,
		cluster: cluster, consensus: consensus, monitor: monitor, ipfs: ipfs,
	}
	select {
	case <-cluster.Ready():
	case <-time.After(readyTimeout):
		return nil, errors.New("the peer did not become ready")
	}
	for _, address := range cfg.Join {
		if err := peer.join(ctx, address); err != nil {
			return nil, fmt.Errorf("bootstrapping from %s: %w", address, err)
		}
	}
	return peer, nil
}

func (p *Peer) stop() error {
	err := p.cluster.Shutdown(context.Background())
	return errors.Join(err, p.dht.Close(), p.host.Close(), p.store.Close())
}
