package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs-cluster/ipfs-cluster/api"
	rpc "github.com/libp2p/go-libp2p-gorpc"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Daemon is what a test sets of the IPFS daemon; a field that is left out stays as it is.
type Daemon struct {
	// ID is what the daemon says of itself. With Down it and every other question is an error.
	ID   *api.IPFSID `json:"id,omitempty"`
	Down *bool       `json:"down,omitempty"`
	// PinMS is how long a pin takes.
	PinMS *int64 `json:"pin_ms,omitempty"`
	// PinErrors gives CIDs whose pins fail the error they fail with; "" ends it.
	PinErrors map[string]string `json:"pin_errors,omitempty"`
	// Forget takes pins away behind the peer's back.
	Forget []api.Cid `json:"forget,omitempty"`

	RepoStat   *api.IPFSRepoStat `json:"repo_stat,omitempty"`
	SwarmPeers []peer.ID         `json:"swarm_peers,omitempty"`
	Collected  []api.IPFSRepoGC  `json:"collected,omitempty"`
}

// MemoryIPFS is an IPFS daemon that exists only in memory.
type MemoryIPFS struct {
	mux        sync.Mutex
	client     *rpc.Client
	id         api.IPFSID
	down       bool
	pinTime    time.Duration
	pinErrors  map[string]string
	pins       map[string]api.IPFSPinInfo
	blocks     map[string][]byte
	repoStat   api.IPFSRepoStat
	swarmPeers []peer.ID
	collected  []api.IPFSRepoGC
}

var errDown = errors.New("the IPFS daemon does not answer")

func newMemoryIPFS(seed string) *MemoryIPFS {
	ident, err := identity(&Config{Seed: "ipfs of " + seed})
	if err != nil {
		// Only a broken source of randomness makes this fail, and there is none here.
		panic(err)
	}
	return &MemoryIPFS{
		id:        api.IPFSID{ID: ident.ID, Addresses: []api.Multiaddr{}},
		pinErrors: map[string]string{},
		pins:      map[string]api.IPFSPinInfo{},
		blocks:    map[string][]byte{},
		repoStat:  api.IPFSRepoStat{RepoSize: 1_000, StorageMax: 1_000_000},
	}
}

func (m *MemoryIPFS) set(daemon Daemon) {
	m.mux.Lock()
	defer m.mux.Unlock()
	if daemon.ID != nil {
		m.id = *daemon.ID
	}
	if daemon.Down != nil {
		m.down = *daemon.Down
	}
	if daemon.PinMS != nil {
		m.pinTime = time.Duration(*daemon.PinMS) * time.Millisecond
	}
	for cid, text := range daemon.PinErrors {
		if text == "" {
			delete(m.pinErrors, cid)
		} else {
			m.pinErrors[cid] = text
		}
	}
	for _, cid := range daemon.Forget {
		delete(m.pins, cid.String())
	}
	if daemon.RepoStat != nil {
		m.repoStat = *daemon.RepoStat
	}
	if daemon.SwarmPeers != nil {
		m.swarmPeers = daemon.SwarmPeers
	}
	if daemon.Collected != nil {
		m.collected = daemon.Collected
	}
}

// content is what the daemon holds: the mode of each pin, and the size of each block.
func (m *MemoryIPFS) content() map[string]any {
	m.mux.Lock()
	defer m.mux.Unlock()
	pins, blocks := map[string]string{}, map[string]int{}
	for cid, info := range m.pins {
		pins[cid] = info.Type.String()
	}
	for cid, data := range m.blocks {
		blocks[cid] = len(data)
	}
	return map[string]any{"pins": pins, "blocks": blocks}
}

// locked runs f on a daemon that answers.
func (m *MemoryIPFS) locked(f func() error) error {
	m.mux.Lock()
	defer m.mux.Unlock()
	if m.down {
		return errDown
	}
	return f()
}

// SetClient keeps the peer's RPC client, which is how commands call other peers as the peer itself does.
func (m *MemoryIPFS) SetClient(client *rpc.Client) { m.client = client }

func (m *MemoryIPFS) Shutdown(context.Context) error { return nil }

func (m *MemoryIPFS) Ready(context.Context) <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}

func (m *MemoryIPFS) ID(context.Context) (id api.IPFSID, err error) {
	err = m.locked(func() error { id = m.id; return nil })
	return id, err
}

func (m *MemoryIPFS) Pin(ctx context.Context, pin api.Pin) error {
	m.mux.Lock()
	pinTime := m.pinTime
	m.mux.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pinTime):
	}
	return m.locked(func() error {
		if text, fails := m.pinErrors[pin.Cid.String()]; fails {
			return errors.New(text)
		}
		m.pins[pin.Cid.String()] = api.IPFSPinInfo{Cid: pin.Cid, Type: pin.Mode.ToIPFSPinStatus()}
		return nil
	})
}

func (m *MemoryIPFS) Unpin(_ context.Context, cid api.Cid) error {
	return m.locked(func() error { delete(m.pins, cid.String()); return nil })
}

func (m *MemoryIPFS) PinLsCid(_ context.Context, pin api.Pin) (status api.IPFSPinStatus, err error) {
	err = m.locked(func() error {
		status = api.IPFSPinStatusUnpinned
		if info, pinned := m.pins[pin.Cid.String()]; pinned {
			status = info.Type
		}
		return nil
	})
	return status, err
}

func (m *MemoryIPFS) PinLs(ctx context.Context, types []string, out chan<- api.IPFSPinInfo) error {
	defer close(out)
	var found []api.IPFSPinInfo
	err := m.locked(func() error {
		for _, info := range m.pins {
			for _, name := range types {
				if info.Type == api.IPFSPinStatusFromString(name) {
					found = append(found, info)
				}
			}
		}
		return nil
	})
	for _, info := range found {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case out <- info:
		}
	}
	return err
}

func (m *MemoryIPFS) ConnectSwarms(context.Context) error {
	return m.locked(func() error { return nil })
}

func (m *MemoryIPFS) SwarmPeers(context.Context) (peers []peer.ID, err error) {
	err = m.locked(func() error { peers = m.swarmPeers; return nil })
	return peers, err
}

func (m *MemoryIPFS) ConfigKey(key string) (any, error) {
	return nil, fmt.Errorf("there is no configuration key %q", key)
}

func (m *MemoryIPFS) RepoStat(context.Context) (stat api.IPFSRepoStat, err error) {
	err = m.locked(func() error { stat = m.repoStat; return nil })
	return stat, err
}

func (m *MemoryIPFS) RepoGC(context.Context) (collected api.RepoGC, err error) {
	err = m.locked(func() error { collected = api.RepoGC{Keys: m.collected}; return nil })
	return collected, err
}

func (m *MemoryIPFS) Resolve(_ context.Context, path string) (api.Cid, error) {
	return api.DecodeCid(path)
}

func (m *MemoryIPFS) BlockStream(ctx context.Context, nodes <-chan api.NodeWithMeta) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case node, more := <-nodes:
			if !more {
				return nil
			}
			if err := m.locked(func() error { m.blocks[node.Cid.String()] = node.Data; return nil }); err != nil {
				return err
			}
		}
	}
}

func (m *MemoryIPFS) BlockGet(_ context.Context, cid api.Cid) (data []byte, err error) {
	err = m.locked(func() error {
		var known bool
		if data, known = m.blocks[cid.String()]; !known {
			return fmt.Errorf("there is no block %s", cid)
		}
		return nil
	})
	return data, err
}
