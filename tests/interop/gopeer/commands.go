package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
	"net/url"
	"reflect"
	"strings"
	"time"

	ipfscluster "github.com/ipfs-cluster/ipfs-cluster"
	"github.com/ipfs-cluster/ipfs-cluster/api"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const streamBuffer = 1_024

type command func(ctx context.Context, p *Peer, args json.RawMessage) (any, error)

// commands in the order of their use: connections, calls, metrics, the pinset, the daemon. Everything that the
// reference offers as an RPC method, to others or to itself, needs no command of its own: see rpcCall.
var commands = map[string]command{
	"connect":    with(connect),
	"join":       with(func(ctx context.Context, p *Peer, address string) (any, error) { return nil, p.join(ctx, address) }),
	"disconnect": with(disconnect),
	"peers":      with(connected),
	"protocols":  with(protocols),
	"find_peer":  with(findPeer),
	"rpc":        with(rpcCall),
	"publish":    with(publish),
	"metrics":    with(metrics),
	"alerts":     with(func(_ context.Context, p *Peer, _ struct{}) (any, error) { return p.cluster.Alerts(), nil }),
	"log":        with(logOperations),
	"add":        with(add),
	"state":      with(state),
	"heads":      with(heads),
	"trust":      with(func(ctx context.Context, p *Peer, id peer.ID) (any, error) { return nil, p.consensus.Trust(ctx, id) }),
	"distrust":   with(func(ctx context.Context, p *Peer, id peer.ID) (any, error) { return nil, p.consensus.Distrust(ctx, id) }),
	"ipfs_set":   with(func(_ context.Context, p *Peer, daemon Daemon) (any, error) { p.ipfs.set(daemon); return nil, nil }),
	"ipfs":       with(func(_ context.Context, p *Peer, _ struct{}) (any, error) { return p.ipfs.content(), nil }),
}

// with reads the arguments of a command strictly.
func with[T any](run func(context.Context, *Peer, T) (any, error)) command {
	return func(ctx context.Context, p *Peer, raw json.RawMessage) (any, error) {
		var args T
		if len(raw) > 0 {
			if err := strict(raw, &args); err != nil {
				return nil, err
			}
		}
		return run(ctx, p, args)
	}
}

func strict(raw []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("the arguments cannot be read: %w", err)
	}
	return nil
}

// ---- Connections

func connect(ctx context.Context, p *Peer, address string) (any, error) {
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return nil, err
	}
	return info.ID, p.host.Connect(ctx, *info)
}

func (p *Peer) join(ctx context.Context, address string) error {
	multiaddr, err := ma.NewMultiaddr(address)
	if err != nil {
		return err
	}
	return p.cluster.Join(ctx, multiaddr)
}

// disconnect also forgets where the peer lives, so that nothing dials it behind the test's back.
func disconnect(_ context.Context, p *Peer, id peer.ID) (any, error) {
	err := p.host.Network().ClosePeer(id)
	p.host.Peerstore().ClearAddrs(id)
	return nil, err
}

func connected(_ context.Context, p *Peer, _ struct{}) (any, error) {
	found := map[string][]string{}
	for _, id := range p.host.Network().Peers() {
		if p.host.Network().Connectedness(id) != network.Connected {
			continue
		}
		for _, conn := range p.host.Network().ConnsToPeer(id) {
			state := conn.ConnState()
			how := fmt.Sprintf("%s %s %s", conn.RemoteMultiaddr(), state.Security, state.StreamMultiplexer)
			found[id.String()] = append(found[id.String()], how)
		}
	}
	return found, nil
}

func protocols(_ context.Context, p *Peer, id peer.ID) (any, error) {
	return p.host.Peerstore().GetProtocols(id)
}

func findPeer(ctx context.Context, p *Peer, id peer.ID) (any, error) {
	info, err := p.dht.FindPeer(ctx, id)
	return info.Addrs, err
}

// ---- Calls

// services are the reference's, by name. Their methods say what they take and give.
var services = map[string]reflect.Type{}

func init() {
	for _, service := range []any{
		&ipfscluster.ClusterRPCAPI{}, &ipfscluster.PinTrackerRPCAPI{}, &ipfscluster.IPFSConnectorRPCAPI{},
		&ipfscluster.ConsensusRPCAPI{}, &ipfscluster.PeerMonitorRPCAPI{},
	} {
		services[ipfscluster.RPCServiceID(service)] = reflect.TypeOf(service)
	}
}

type rpcArgs struct {
	// To is empty for the peer itself, where the methods that are closed to others are open too.
	To     peer.ID `json:"to"`
	Method string  `json:"method"`
	// Args are as many as the method takes: one, or any number for a stream.
	Args []json.RawMessage `json:"args"`
}

// rpcCall calls any method of any peer with the reference's client. The answer of a stream is the list of all its items,
// also when it ends with an error.
func rpcCall(ctx context.Context, p *Peer, args rpcArgs) (any, error) {
	service, name, _ := strings.Cut(args.Method, ".")
	in, out := reflect.TypeFor[struct{}](), reflect.TypeFor[struct{}]()
	streams := false
	// A method that the reference does not have is called with nothing, to see how the other side refuses it.
	if typ, known := services[service]; known {
		if method, known := typ.MethodByName(name); known {
			in, out = method.Type.In(2), method.Type.In(3).Elem()
			if streams = in.Kind() == reflect.Chan; streams {
				in = in.Elem()
			}
		}
	}
	values := make([]reflect.Value, 0, len(args.Args))
	for _, raw := range args.Args {
		value := reflect.New(in)
		if err := strict(raw, value.Interface()); err != nil {
			return nil, err
		}
		values = append(values, value.Elem())
	}
	if streams {
		return rpcStream(ctx, p, args.To, service, name, in, out, values)
	}
	if len(values) == 0 {
		values = append(values, reflect.Zero(in))
	}
	reply := reflect.New(out)
	err := p.ipfs.client.CallContext(ctx, args.To, service, name, values[0].Interface(), reply.Interface())
	return reply.Elem().Interface(), err
}

func rpcStream(
	ctx context.Context, p *Peer, to peer.ID, service, name string, in, out reflect.Type, values []reflect.Value,
) (any, error) {
	sent := reflect.MakeChan(reflect.ChanOf(reflect.BothDir, in), max(len(values), 1))
	for _, value := range values {
		sent.Send(value)
	}
	sent.Close()
	received := reflect.MakeChan(reflect.ChanOf(reflect.BothDir, out), streamBuffer)
	failed := make(chan error, 1)
	go func() {
		failed <- p.ipfs.client.Stream(ctx, to, service, name, sent.Interface(), received.Interface())
	}()
	items := []any{}
	for {
		item, more := received.Recv()
		if !more {
			return items, <-failed
		}
		items = append(items, item.Interface())
	}
}

// ---- Metrics

type publishArgs struct {
	api.Metric
	TTLMS int64 `json:"ttl_ms"`
}

// publish sends a metric as it stands, with an expiry that is set here if the arguments have a TTL.
func publish(ctx context.Context, p *Peer, args publishArgs) (any, error) {
	if args.TTLMS > 0 {
		args.SetTTL(time.Duration(args.TTLMS) * time.Millisecond)
	}
	return nil, p.monitor.PublishMetric(ctx, args.Metric)
}

// metrics gives the latest valid metric of each peer, under one name or under every name received so far.
func metrics(ctx context.Context, p *Peer, name string) (any, error) {
	names := []string{name}
	if name == "" {
		names = p.monitor.MetricNames(ctx)
	}
	found := []api.Metric{}
	for _, name := range names {
		found = append(found, p.monitor.LatestMetrics(ctx, name)...)
	}
	return found, nil
}

// ---- The pinset

type operation struct {
	Pin   *api.Pin `json:"pin"`
	Unpin *api.Cid `json:"unpin"`
}

// logOperations hands operations to the consensus as they are: no allocation, no check, no change. They are batched
// where the configuration says so.
func logOperations(ctx context.Context, p *Peer, operations []operation) (any, error) {
	for _, operation := range operations {
		var err error
		switch {
		case operation.Pin != nil:
			err = p.consensus.LogPin(ctx, *operation.Pin)
		case operation.Unpin != nil:
			err = p.consensus.LogUnpin(ctx, api.PinCid(*operation.Unpin))
		default:
			err = errors.New("an operation is a pin or an unpin")
		}
		if err != nil {
			return nil, err
		}
	}
	return len(operations), nil
}

// state gives every pin as the datastore holds it.
func state(ctx context.Context, p *Peer, _ struct{}) (any, error) {
	reader, err := p.consensus.State(ctx)
	if err != nil {
		return nil, err
	}
	pins := make(chan api.Pin, streamBuffer)
	failed := make(chan error, 1)
	go func() { failed <- reader.List(ctx, pins) }()
	found := []api.Pin{}
	for pin := range pins {
		found = append(found, pin)
	}
	return found, <-failed
}

// heads gives the CRDT's heads (the multihashes' keys), the number of blocks processed, and whether it knows that
// something is missing. They are read from the datastore, where the reference keeps them.
func heads(ctx context.Context, p *Peer, _ struct{}) (any, error) {
	keys := func(prefix string) ([]string, error) {
		results, err := p.store.Query(ctx, query.Query{Prefix: prefix, KeysOnly: true})
		if err != nil {
			return nil, err
		}
		entries, err := results.Rest()
		found := []string{}
		for _, entry := range entries {
			found = append(found, entry.Key)
		}
		return found, err
	}
	current, err := keys(p.namespace + "/h")
	if err != nil {
		return nil, err
	}
	for i, key := range current {
		current[i] = strings.TrimPrefix(key, p.namespace+"/h/")
	}
	below, err := keys(p.namespace + "/b")
	if err != nil {
		return nil, err
	}
	processed := 0
	for _, key := range below {
		// The blocks themselves live one level below the marks of those that are processed.
		if !strings.Contains(strings.TrimPrefix(key, p.namespace+"/b/"), "/") {
			processed++
		}
	}
	dirty, err := keys(p.namespace)
	isDirty := false
	for _, key := range dirty {
		isDirty = isDirty || key == p.namespace+"/d"
	}
	return map[string]any{"heads": current, "processed": processed, "dirty": isDirty}, err
}

// ---- Content

type addArgs struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
	// Query is that of the REST API's /add.
	Query string `json:"query"`
}

// add adds one file as the REST API does, and gives its root.
func add(ctx context.Context, p *Peer, args addArgs) (any, error) {
	query, err := url.ParseQuery(args.Query)
	if err != nil {
		return nil, err
	}
	params, err := api.AddParamsFromQuery(query)
	if err != nil {
		return nil, err
	}
	var form bytes.Buffer
	writer := multipart.NewWriter(&form)
	part, err := writer.CreateFormFile("file", args.Name)
	if err == nil {
		_, err = part.Write(args.Data)
	}
	if err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return p.cluster.AddFile(ctx, multipart.NewReader(&form, writer.Boundary()), params)
}
