// Command gopeer is a peer of Go ipfs-cluster 1.1.6 that a test commands: the reference's own host, consensus, monitor,
// tracker, allocator and RPC services, over a connector to an IPFS daemon that exists only in its memory.
//
// The first line of its standard input is the configuration (see [Config]). It answers with one line
// {"ready":true,"id":…,"addrs":[…]}, or {"ready":false,"error":…} and ends. Every further line is a command
// {"id":n,"do":"name",…}, run beside the others, and answered in any order by {"id":n,"ok":…} or
// {"id":n,"error":…,"kind":…}. It ends when its input does.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	rpc "github.com/libp2p/go-libp2p-gorpc"
)

const (
	lineBytesMax   = 64 << 20
	commandsMax    = 256
	defaultTimeout = 30 * time.Second
)

// Request is one line of input. Arguments that a command does not name are left out.
type Request struct {
	ID        uint64          `json:"id"`
	Do        string          `json:"do"`
	TimeoutMS int64           `json:"timeout_ms"`
	Args      json.RawMessage `json:"args"`
}

// Answer is one line of output. Kind tells what sort of error gorpc made of it.
type Answer struct {
	ID    uint64 `json:"id"`
	OK    any    `json:"ok"`
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"`
}

// Lines writes whole lines, from any goroutine.
type Lines struct {
	mux sync.Mutex
	out *json.Encoder
}

func (l *Lines) write(value any) {
	l.mux.Lock()
	defer l.mux.Unlock()
	if err := l.out.Encode(value); err != nil {
		// Whoever commanded us is gone, and nobody else would stop us.
		fmt.Fprintln(os.Stderr, "gopeer: no answer can be written:", err)
		os.Exit(1)
	}
}

func main() {
	lines := &Lines{out: json.NewEncoder(os.Stdout)}
	if err := run(os.Stdin, lines); err != nil {
		fmt.Fprintln(os.Stderr, "gopeer:", err)
		os.Exit(1)
	}
}

func run(input io.Reader, lines *Lines) error {
	scanner := bufio.NewScanner(input)
	scanner.Buffer(make([]byte, 64<<10), lineBytesMax)
	if !scanner.Scan() {
		return errors.New("the first line must be the configuration")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	peer, err := start(ctx, scanner.Bytes())
	if err != nil {
		lines.write(map[string]any{"ready": false, "error": err.Error()})
		return err
	}
	lines.write(map[string]any{"ready": true, "id": peer.host.ID(), "addrs": peer.host.Addrs()})

	slots := make(chan struct{}, commandsMax)
	for scanner.Scan() {
		var request Request
		if err := json.Unmarshal(scanner.Bytes(), &request); err != nil {
			return fmt.Errorf("a line is no command: %w", err)
		}
		if request.Do == "stop" {
			answer := Answer{ID: request.ID}
			if err := peer.stop(); err != nil {
				answer.Error = err.Error()
			}
			lines.write(answer)
			return nil
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			lines.write(serve(ctx, peer, request))
		}()
	}
	return errors.Join(scanner.Err(), peer.stop())
}

func serve(ctx context.Context, peer *Peer, request Request) Answer {
	timeout := defaultTimeout
	if request.TimeoutMS > 0 {
		timeout = time.Duration(request.TimeoutMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer := Answer{ID: request.ID}
	command, known := commands[request.Do]
	if !known {
		answer.Error = fmt.Sprintf("unknown command %q", request.Do)
		return answer
	}
	value, err := command(ctx, peer, request.Args)
	answer.OK = value
	if err != nil {
		answer.Error, answer.Kind = err.Error(), kind(err)
	}
	return answer
}

func kind(err error) string {
	switch {
	case rpc.IsAuthorizationError(err):
		return "authorization"
	case rpc.IsServerError(err):
		return "server"
	case rpc.IsClientError(err):
		return "client"
	default:
		return "plain"
	}
}
