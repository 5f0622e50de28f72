package raftgroup

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"agentd/internal/peer"
	"agentd/internal/peer/raftmsg"
	"agentd/pkg/agent"
)

const (
	// heartbeatLimit is for messages that answer at once or not at all.
	heartbeatLimit = time.Second
	// appendLimit is for messages that wait for a disk and for others before them on a
	// slow network. A node that is gone is noticed much sooner, by the port.
	appendLimit = 30 * time.Second
	// voteLimit is for questions that wait for one small write.
	voteLimit = 5 * time.Second
	// installLimit is for a whole snapshot.
	installLimit = 2 * time.Hour

	// appendBytes is where an append is split, unless one entry is larger.
	appendBytes = 4 << 20

	// pipelineAppends and pipelineBytes bound what a follower has not answered, of one group.
	pipelineAppends = 64
	pipelineBytes   = 16 << 20
)

// OverPort is the transport of a group over the node's peer port. The group has the same
// number on all nodes; a member's address is its node's name. One Start uses it,
// and ends it with the group.
func OverPort(port *peer.Port, group uint32) *Transport {
	t := &peers{port: port, group: group, node: port.Self().Node, requests: make(chan raft.RPC, queuedProposals)}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.remove = port.Handle(group, t.handle)
	return &Transport{raft: t}
}

// peers is raft's transport over a peer port.
type peers struct {
	port      *peer.Port
	group     uint32
	node      string
	requests  chan raft.RPC
	heartbeat atomic.Pointer[func(raft.RPC)]
	remove    func()
	ctx       context.Context // ends with Close, and with it all that waits
	cancel    context.CancelCauseFunc
}

var (
	_ raft.Transport   = (*peers)(nil)
	_ raft.WithPreVote = (*peers)(nil)
	_ raft.WithClose   = (*peers)(nil)
)

func (t *peers) Consumer() <-chan raft.RPC                                  { return t.requests }
func (t *peers) LocalAddr() raft.ServerAddress                              { return raft.ServerAddress(t.node) }
func (t *peers) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }
func (t *peers) DecodePeer(b []byte) raft.ServerAddress                     { return raft.ServerAddress(b) }
func (t *peers) SetHeartbeatHandler(fn func(raft.RPC))                      { t.heartbeat.Store(&fn) }

// Close is called by raft when it has ended. Before that it ends what raft would wait
// for. It may be called more than once.
func (t *peers) Close() error {
	t.remove()
	t.cancel(errStopped)
	return nil
}

func headerOf(h raft.RPCHeader) raftmsg.Header {
	return raftmsg.Header{Protocol: uint8(h.ProtocolVersion), Node: h.ID, Address: h.Addr} //nolint:gosec // 0 to 3
}

func rpcHeader(h raftmsg.Header) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(h.Protocol), ID: h.Node, Addr: h.Address}
}

// ask sends a message and decodes the reply.
func (t *peers) ask(to raft.ServerID, class peer.Class, kind raftmsg.Kind, body []byte, limit time.Duration) (*raftmsg.Reply, error) {
	b, err := t.port.Call(t.ctx, string(to), peer.Message{Class: class, Group: t.group, Kind: uint8(kind), Body: body, Limit: limit})
	if err != nil {
		return nil, err
	}
	return raftmsg.DecodeReply(b)
}

// isHeartbeat tells raft's heartbeats from appends that carry a commit index.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

func (t *peers) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		a := raftmsg.Append{Header: headerOf(args.RPCHeader), Term: args.Term}
		r, err := t.ask(id, peer.Control, raftmsg.KindHeartbeat, a.Encode(), heartbeatLimit)
		return answered(resp, r, err)
	}
	for _, part := range split(args) {
		r, err := t.ask(id, peer.Data, raftmsg.KindAppend, part.Encode(), appendLimit)
		if err := answered(resp, r, err); err != nil || !resp.Success {
			return err
		}
	}
	return nil
}

func answered(resp *raft.AppendEntriesResponse, r *raftmsg.Reply, err error) error {
	if err != nil {
		return err
	}
	*resp = raft.AppendEntriesResponse{RPCHeader: rpcHeader(r.Header), Term: r.Term, LastLog: r.LastLog, Success: r.Success, NoRetryBackoff: r.NoBackoff}
	return nil
}

// split makes messages of bounded size of one append: raft counts entries, not bytes.
// Each is valid by itself, and the last one's success is that of all.
func split(args *raft.AppendEntriesRequest) []*raftmsg.Append {
	var parts []*raftmsg.Append
	begin := func(index, term uint64) *raftmsg.Append {
		a := &raftmsg.Append{Header: headerOf(args.RPCHeader), Term: args.Term, PrevIndex: index, PrevTerm: term, Commit: args.LeaderCommitIndex}
		parts = append(parts, a)
		return a
	}
	part, size := begin(args.PrevLogEntry, args.PrevLogTerm), 0
	for i, l := range args.Entries {
		e := raftmsg.Entry{Index: l.Index, Term: l.Term, Type: uint8(l.Type), AppendedAt: l.AppendedAt, Data: l.Data, Extensions: l.Extensions}
		if n := e.EncodedBytes(); size > 0 && size+n > appendBytes {
			part, size = begin(args.Entries[i-1].Index, args.Entries[i-1].Term), 0
		}
		part.Entries = append(part.Entries, e)
		size += e.EncodedBytes()
	}
	return parts
}

func (t *peers) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	v := raftmsg.Vote{Header: headerOf(args.RPCHeader), Term: args.Term, LastIndex: args.LastLogIndex, LastTerm: args.LastLogTerm, Transfer: args.LeadershipTransfer}
	r, err := t.ask(id, peer.Control, raftmsg.KindVote, v.Encode(), voteLimit)
	if err != nil {
		return err
	}
	*resp = raft.RequestVoteResponse{RPCHeader: rpcHeader(r.Header), Term: r.Term, Granted: r.Success}
	return nil
}

func (t *peers) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	v := raftmsg.Vote{Header: headerOf(args.RPCHeader), Term: args.Term, LastIndex: args.LastLogIndex, LastTerm: args.LastLogTerm}
	r, err := t.ask(id, peer.Control, raftmsg.KindPreVote, v.Encode(), voteLimit)
	if err != nil {
		return err
	}
	*resp = raft.RequestPreVoteResponse{RPCHeader: rpcHeader(r.Header), Term: r.Term, Granted: r.Success}
	return nil
}

// TimeoutNow may be meant for this node: a sole voter tells itself to stand.
func (t *peers) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	h := headerOf(args.RPCHeader)
	if string(id) == t.node {
		ctx, cancel := context.WithTimeout(t.ctx, voteLimit)
		defer cancel()
		_, err := t.give(ctx, raft.RPC{Command: args})
		return err
	}
	r, err := t.ask(id, peer.Control, raftmsg.KindTimeoutNow, h.Encode(), voteLimit)
	if err != nil {
		return err
	}
	resp.RPCHeader = rpcHeader(r.Header)
	return nil
}

func (t *peers) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	i := raftmsg.Install{Header: headerOf(args.RPCHeader), SnapshotVersion: uint8(args.SnapshotVersion), Term: args.Term, LastIndex: args.LastLogIndex, //nolint:gosec // 0 or 1
		LastTerm: args.LastLogTerm, ConfigurationIndex: args.ConfigurationIndex, Size: args.Size, Configuration: args.Configuration}
	ctx, cancel := context.WithTimeout(t.ctx, installLimit)
	defer cancel()
	b, err := t.port.Send(ctx, string(id), peer.Message{Group: t.group, Kind: uint8(raftmsg.KindInstall), Body: i.Encode()}, io.LimitReader(data, args.Size))
	if err != nil {
		return err
	}
	r, err := raftmsg.DecodeReply(b)
	if err != nil {
		return err
	}
	*resp = raft.InstallSnapshotResponse{RPCHeader: rpcHeader(r.Header), Term: r.Term, Success: r.Success}
	return nil
}

// handle answers another node's message. Heartbeats go past raft's own queue, which
// may wait for a disk.
func (t *peers) handle(ctx context.Context, r peer.Request) ([]byte, error) {
	rpc := raft.RPC{Reader: r.Content}
	var err error
	if rpc.Command, err = command(raftmsg.Kind(r.Kind), r); err != nil {
		return nil, &agent.Error{Op: "read a message of raft", Kind: agent.Invalid, Err: err}
	}
	if h, ok := rpc.Command.(raft.WithRPCHeader); !ok || string(h.GetRPCHeader().ID) != r.From.Node {
		return nil, &agent.Error{Op: "read a message of raft", Kind: agent.Denied, Msg: "node " + r.From.Node + " speaks in the name of another"}
	}
	response, err := t.give(ctx, rpc)
	if err != nil {
		return nil, err
	}
	return encodeResponse(response)
}

// command makes raft's form of a message.
func command(kind raftmsg.Kind, r peer.Request) (any, error) {
	switch kind {
	case raftmsg.KindHeartbeat, raftmsg.KindAppend:
		a, err := raftmsg.DecodeAppend(r.Body)
		if err != nil {
			return nil, err
		}
		return appendRequest(a)
	case raftmsg.KindVote, raftmsg.KindPreVote:
		v, err := raftmsg.DecodeVote(r.Body)
		if err != nil {
			return nil, err
		}
		if kind == raftmsg.KindPreVote {
			return &raft.RequestPreVoteRequest{RPCHeader: rpcHeader(v.Header), Term: v.Term, LastLogIndex: v.LastIndex, LastLogTerm: v.LastTerm}, nil
		}
		return &raft.RequestVoteRequest{RPCHeader: rpcHeader(v.Header), Term: v.Term, LastLogIndex: v.LastIndex, LastLogTerm: v.LastTerm, LeadershipTransfer: v.Transfer}, nil
	case raftmsg.KindTimeoutNow:
		h, err := raftmsg.DecodeHeader(r.Body)
		if err != nil {
			return nil, err
		}
		return &raft.TimeoutNowRequest{RPCHeader: rpcHeader(*h)}, nil
	case raftmsg.KindInstall:
		i, err := raftmsg.DecodeInstall(r.Body)
		if err != nil {
			return nil, err
		}
		if r.Content == nil {
			return nil, errors.New("a snapshot without content")
		}
		return installRequest(i)
	}
	return nil, errors.New("a message of unknown kind")
}

func appendRequest(a *raftmsg.Append) (*raft.AppendEntriesRequest, error) {
	req := &raft.AppendEntriesRequest{RPCHeader: rpcHeader(a.Header), Term: a.Term, PrevLogEntry: a.PrevIndex, PrevLogTerm: a.PrevTerm, LeaderCommitIndex: a.Commit}
	logs := make([]raft.Log, len(a.Entries))
	req.Entries = make([]*raft.Log, len(a.Entries))
	for i, e := range a.Entries {
		if e.Type > uint8(raft.LogConfiguration) || e.Index != a.PrevIndex+uint64(i)+1 { //nolint:gosec // not negative
			return nil, raftmsg.ErrDamaged
		}
		logs[i] = raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogType(e.Type), Data: e.Data, Extensions: e.Extensions, AppendedAt: e.AppendedAt}
		req.Entries[i] = &logs[i]
		if logs[i].Type == raft.LogConfiguration && !validConfiguration(e.Data) {
			return nil, raftmsg.ErrDamaged
		}
	}
	return req, nil
}

// installRequest checks what raft would panic about.
func installRequest(i *raftmsg.Install) (*raft.InstallSnapshotRequest, error) {
	if i.SnapshotVersion != uint8(raft.SnapshotVersionMax) || !validConfiguration(i.Configuration) {
		return nil, raftmsg.ErrDamaged
	}
	return &raft.InstallSnapshotRequest{RPCHeader: rpcHeader(i.Header), SnapshotVersion: raft.SnapshotVersion(i.SnapshotVersion), Leader: i.Address, Term: i.Term,
		LastLogIndex: i.LastIndex, LastLogTerm: i.LastTerm, ConfigurationIndex: i.ConfigurationIndex, Size: i.Size, Configuration: i.Configuration}, nil
}

// validConfiguration says whether raft can decode it: it panics otherwise.
func validConfiguration(b []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	raft.DecodeConfiguration(b)
	return true
}

// give has raft answer a request.
func (t *peers) give(ctx context.Context, rpc raft.RPC) (any, error) {
	responses := make(chan raft.RPCResponse, 1)
	rpc.RespChan = responses
	fast := t.heartbeat.Load()
	if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && fast != nil && *fast != nil && isHeartbeat(a) {
		(*fast)(rpc)
	} else {
		select {
		case t.requests <- rpc:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-t.ctx.Done():
			return nil, errStopped
		}
	}
	select {
	case r := <-responses:
		return r.Response, r.Error
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.ctx.Done():
		return nil, errStopped
	}
}

var errStopped = &agent.Error{Op: "use group", Kind: agent.Unavailable, Msg: "the group is stopped on this node"}

func encodeResponse(response any) ([]byte, error) {
	var p raftmsg.Reply
	switch r := response.(type) {
	case *raft.AppendEntriesResponse:
		p = raftmsg.Reply{Header: headerOf(r.RPCHeader), Term: r.Term, LastLog: r.LastLog, Success: r.Success, NoBackoff: r.NoRetryBackoff}
	case *raft.RequestVoteResponse:
		p = raftmsg.Reply{Header: headerOf(r.RPCHeader), Term: r.Term, Success: r.Granted}
	case *raft.RequestPreVoteResponse:
		p = raftmsg.Reply{Header: headerOf(r.RPCHeader), Term: r.Term, Success: r.Granted}
	case *raft.InstallSnapshotResponse:
		p = raftmsg.Reply{Header: headerOf(r.RPCHeader), Term: r.Term, Success: r.Success}
	case *raft.TimeoutNowResponse:
		p = raftmsg.Reply{Header: headerOf(r.RPCHeader), Success: true}
	default:
		return nil, &agent.Error{Op: "answer a message of raft", Kind: agent.Internal, Msg: "raft has given no answer"}
	}
	return p.Encode(), nil
}

// AppendEntriesPipeline begins to send appends without waiting for the replies.
func (t *peers) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	return &pipeline{peers: t, to: string(id), done: make(chan raft.AppendFuture, 4*pipelineAppends), broken: make(chan struct{}), moved: make(chan struct{}, 1)}, nil
}

// pipeline ends with the first append that is not answered: raft then asks anew where
// the follower is. Such an append is not delivered, since raft takes every delivery
// for a sign of life.
type pipeline struct {
	peers  *peers
	to     string
	done   chan raft.AppendFuture
	moved  chan struct{} // there is room
	broken chan struct{}

	mu    sync.Mutex // guards what follows
	count int        // appends that are not answered
	bytes int
	err   error
}

var _ raft.AppendPipeline = (*pipeline)(nil)

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

func (p *pipeline) Close() error {
	p.fail(raft.ErrPipelineShutdown)
	return nil
}

func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.broken)
	}
}

// AppendEntries waits while too much is under way.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &appended{start: time.Now(), args: args, resp: resp, over: make(chan struct{})}
	parts := split(args)
	for _, part := range parts {
		body := part.Encode()
		if err := p.enter(len(body)); err != nil {
			return nil, err
		}
		last := part == parts[len(parts)-1]
		p.peers.port.Post(p.to, peer.Message{Class: peer.Data, Group: p.peers.group, Kind: uint8(raftmsg.KindAppend), Body: body, Limit: appendLimit,
			Lazy: len(part.Entries) == 0}, func(reply []byte, err error) { p.answered(f, len(body), last, reply, err) })
	}
	return f, nil
}

func (p *pipeline) enter(size int) error {
	for {
		p.mu.Lock()
		err, room := p.err, p.count == 0 || p.count < pipelineAppends && p.bytes+size <= pipelineBytes
		if err == nil && room {
			p.count, p.bytes = p.count+1, p.bytes+size
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-p.moved:
		case <-p.broken:
		case <-p.peers.ctx.Done():
			return errStopped
		}
	}
}

// answered is called for each part, in order, on the connection's goroutine.
func (p *pipeline) answered(f *appended, size int, last bool, reply []byte, err error) {
	var r *raftmsg.Reply
	if err == nil {
		r, err = raftmsg.DecodeReply(reply)
	}
	p.mu.Lock()
	p.count, p.bytes = p.count-1, p.bytes-size
	over := p.err
	p.mu.Unlock()
	select {
	case p.moved <- struct{}{}:
	default:
	}
	switch err = cmp.Or(err, over); {
	case err != nil:
		p.fail(err)
		f.end(nil, err)
	case last || !r.Success:
		if f.end(r, nil) && !p.deliver(f) {
			p.fail(errBehind)
		}
	}
}

func (p *pipeline) deliver(f *appended) bool {
	select {
	case p.done <- f:
		return true
	default:
		return false
	}
}

var errBehind = errors.New("replies of a follower are not consumed")

// appended is an append of a pipeline.
type appended struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	once  sync.Once
	over  chan struct{}
	err   error // valid when over
}

var _ raft.AppendFuture = (*appended)(nil)

// end takes the first reply or error, and says whether this was it.
func (f *appended) end(r *raftmsg.Reply, err error) (first bool) {
	f.once.Do(func() {
		first, f.err = true, answered(f.resp, r, err)
		close(f.over)
	})
	return first
}

func (f *appended) Error() error {
	<-f.over
	return f.err
}
func (f *appended) Start() time.Time                      { return f.start }
func (f *appended) Request() *raft.AppendEntriesRequest   { return f.args }
func (f *appended) Response() *raft.AppendEntriesResponse { return f.resp }
