package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"agentd/internal/wire"
	"agentd/pkg/agent"
)

// SourceError is where source code does not compile; errors.As finds it in an
// error of kind Compile.
type SourceError = wire.SourceError

// Retries of calls with a key.
const (
	maxTries   = 5
	retryAfter = 100 * time.Millisecond // doubled after each try
)

// NotServing says whether err means that no server answered, or one that is not
// ready.
func NotServing(err error) bool { return err != nil && agent.KindOf(err) == agent.Unavailable }

// request says what is being asked, for error messages.
type request struct {
	op      string
	id      agent.ID
	effects bool // it may change something: a broken connection leaves that open
}

// send does one unary request.
func send[Req, Resp any](ctx context.Context, c *Client, r request,
	rpc func(context.Context, *Req, ...grpc.CallOption) (*Resp, error), in *Req) (*Resp, error) {
	var reached peer.Peer
	resp, err := rpc(ctx, in, grpc.Peer(&reached))
	if err != nil {
		return nil, c.failure(ctx, r, err, reached.Addr != nil)
	}
	return resp, nil
}

// failure is err as an *agent.Error. sent says whether the request left for a
// server.
func (c *Client) failure(ctx context.Context, r request, err error, sent bool) error {
	st, _ := status.FromError(err)
	e, explained := wire.FromStatus(st)
	if e.Op == "" {
		e.Op = r.op
	}
	if e.Agent.IsZero() {
		e.Agent = r.id
	}
	if explained {
		return e
	}
	switch code := st.Code(); {
	case code == codes.Canceled && ctx.Err() == nil:
		e.Msg = "the client was closed"
	case code == codes.DeadlineExceeded && !sent:
		e.Msg = fmt.Sprintf("no connection to %s in time; is `agentd serve` running there?", c.addr)
		e.Err = context.Cause(ctx)
	case code == codes.DeadlineExceeded, code == codes.Canceled:
		e.Msg = "gave up waiting for an answer of " + c.addr
		e.Err = context.Cause(ctx)
	case code == codes.Unavailable && !sent:
		e.Err = c.dials.lastError()
		e.Msg = c.unreached(e.Err)
	case code == codes.Unavailable && r.effects:
		e.Kind = agent.OutcomeUnknown
		e.Msg = fmt.Sprintf("the connection to %s broke before the answer came; whether the request took effect is unknown", c.addr)
	case code == codes.Unavailable:
		e.Msg = fmt.Sprintf("the connection to %s broke before the answer came; try again", c.addr)
	case code == codes.Unimplemented:
		e.Msg = fmt.Sprintf("%s does not offer this: it is an older agentd, or none", c.addr)
	}
	return e
}

// unreached says why no request could be sent; err is how the newest try to connect
// ended.
func (c *Client) unreached(err error) string {
	var (
		plain    tls.RecordHeaderError
		stranger x509.UnknownAuthorityError
		host     x509.HostnameError
		invalid  x509.CertificateInvalidError
		alert    tls.AlertError
	)
	switch {
	case errors.As(err, &plain):
		return fmt.Sprintf("%s does not speak TLS; leave out --tls and --tls-ca (WithTLS) if the network is trusted", c.addr)
	case errors.As(err, &stranger):
		return fmt.Sprintf("the certificate of %s is signed by no CA that is trusted here; name its CA with --tls-ca FILE", c.addr)
	case errors.As(err, &host), errors.As(err, &invalid):
		return fmt.Sprintf("the certificate of %s is not acceptable", c.addr)
	case errors.As(err, &alert):
		return fmt.Sprintf("%s refuses this TLS connection", c.addr)
	case err != nil:
		return fmt.Sprintf("cannot reach agentd at %s; is `agentd serve` running there?", c.addr)
	case c.tls:
		return fmt.Sprintf("%s ended the connection at once; does it want a certificate of the client (--tls-cert, --tls-key)?", c.addr)
	}
	return fmt.Sprintf("%s ended the connection at once; does it speak TLS (--tls-ca FILE, or --tls for the system's CAs)?", c.addr)
}

// retry runs try until it succeeds, fails for good, or was tried often enough. It
// is for requests that the server recognises when they come again.
func (c *Client) retry(ctx context.Context, r request, try func() error) error {
	delay := retryAfter
	for n := 1; ; n++ {
		err := try()
		if n == maxTries || !worthRetry(err) {
			return err
		}
		timer := time.NewTimer(delay + rand.N(delay/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return c.gaveUp(ctx, r, n, err)
		}
		delay *= 2
		c.conn.ResetConnectBackoff()
	}
}

func worthRetry(err error) bool {
	if err == nil {
		return false
	}
	switch agent.KindOf(err) {
	case agent.Unavailable, agent.OutcomeUnknown, agent.Reset:
		return true
	}
	return false
}

// gaveUp keeps the reason of the tries beside the end of the context.
func (c *Client) gaveUp(ctx context.Context, r request, tries int, last error) error {
	kind := agent.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = agent.Deadline
	}
	return &agent.Error{Op: r.op, Agent: r.id, Kind: kind, Msg: fmt.Sprintf("gave up after %d tries", tries), Err: last}
}

// ask is send for a request about one agent, whose ID is checked first.
func ask[Req, Resp any](ctx context.Context, c *Client, r request,
	rpc func(context.Context, *Req, ...grpc.CallOption) (*Resp, error), in *Req) (*Resp, error) {
	if err := r.id.Validate(); err != nil {
		return nil, err
	}
	return send(ctx, c, r, rpc, in)
}

// checkText refuses what protobuf cannot carry.
func checkText(r request, texts ...string) error {
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return &agent.Error{Op: r.op, Agent: r.id, Kind: agent.Invalid, Msg: fmt.Sprintf("%.40q is not UTF-8", text)}
		}
	}
	return nil
}

// pageLimit refuses what does not fit on the wire; the server knows the maximum.
func pageLimit(r request, n int) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, &agent.Error{Op: r.op, Agent: r.id, Kind: agent.Invalid, Msg: fmt.Sprintf("limit is %d; it must be 1 or more, or 0 for the default", n)}
	}
	return uint32(n), nil
}
