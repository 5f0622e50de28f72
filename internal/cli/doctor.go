package cli

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"agentd/internal/governor"
	"agentd/pkg/agent"
	"agentd/pkg/client"
)

// Bounds of what doctor finds worth a word.
const (
	fewBytesFree    = 5 << 30
	noBytesFree     = 64 << 20
	slowSync        = 10 * time.Millisecond
	fewDescriptors  = 8192 // one per live agent, and connections
	littleMemory    = 512 << 20
	syncWrites      = 50
	syncWriteBytes  = 4096
	syncTimeLimit   = 5 * time.Second
	nodeAnswerLimit = 5 * time.Second
)

// Verdicts of a check.
const (
	verdictOK   = "ok"
	verdictWarn = "warn"
	verdictFail = "fail"
)

// finding is one line of doctor. The JSON names are part of the interface.
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"` // ok, warn, fail
	Fact    string `json:"fact"`
	Todo    string `json:"todo,omitempty"` // what to do about it
}

type doctorCommand struct {
	Data      string `setting:"" placeholder:"DIR" help:"Data folder to check, default the current folder."`
	Listen    string `setting:"" default:"127.0.0.1:7600" placeholder:"HOST:PORT" help:"gRPC address that a server here would use."`
	HTTP      string `setting:"" default:"127.0.0.1:7680" placeholder:"HOST:PORT" help:"HTTP address that a server here would use."`
	Addr      string `setting:"" default:"127.0.0.1:7600" placeholder:"HOST:PORT" help:"Server to look for."`
	Token     string `setting:"" placeholder:"TOKEN" help:"Token for that server."`
	TokenFile string `setting:"" placeholder:"FILE" help:"File that holds the token."`

	// What a server here would use; its certificate is also what is shown to Addr.
	TLSClientCA string `setting:"" name:"tls-client-ca" group:"security" placeholder:"FILE" help:"CAs of clients that a server here would use."`
	AuthTokens  string `setting:"" group:"security" placeholder:"FILE" help:"File of tokens that a server here would use."`
	secured
	configured
	output
}

// Run checks one thing after another and fails if one of them must be mended.
func (c *doctorCommand) Run(ctx context.Context, s *session) error {
	findings := []finding{
		{Check: "agentd", Verdict: verdictOK, Fact: fmt.Sprintf("%s, %s %s/%s, %d CPUs", s.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0))},
		checkKernel(),
		checkMemory(),
		checkDescriptors(),
	}
	findings = append(findings, s.checkData(ctx, c.Data)...)
	token, err := (&connection{Token: c.Token, TokenFile: c.TokenFile}).token(s)
	if err != nil {
		return err
	}
	findings = append(findings, c.checkSecurity(s)...)
	tlsConfig, err := c.secured.config(s)
	if err != nil {
		return err
	}
	server, answers := c.checkServer(ctx, s, token)
	findings = append(findings,
		checkPort("grpc port", "--listen", c.Listen, answers && samePort(c.Listen, c.Addr)),
		checkPort("http port", "--http", c.HTTP, isHealthy(ctx, c.HTTP, tlsConfig)),
		server)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := s.printFindings(findings); err != nil {
		return err
	}
	bad := 0
	for _, f := range findings {
		if f.Verdict == verdictFail {
			bad++
		}
	}
	if bad > 0 {
		return &agent.Error{Kind: agent.Internal, Msg: fmt.Sprintf("%d of %d checks failed", bad, len(findings))}
	}
	return nil
}

func (s *session) printFindings(findings []finding) error {
	if s.json {
		return s.printValue(map[string][]finding{"checks": findings})
	}
	t := newTable(s.Stdout)
	for _, f := range findings {
		text := f.Fact
		if f.Todo != "" {
			text += ": " + f.Todo
		}
		t.row(f.Verdict, f.Check, text)
	}
	return t.flush()
}

func checkKernel() finding {
	f := finding{Check: "system", Verdict: verdictOK, Fact: kernel()}
	if runtime.GOOS != "linux" {
		f.Verdict, f.Todo = verdictWarn, "fine for development; run servers on Linux"
	}
	return f
}

func checkMemory() finding {
	limit := governor.MachineMemory()
	f := finding{Check: "memory", Verdict: verdictOK, Fact: size(int64(limit)) + " for this process (machine or cgroup)"}
	switch {
	case runtime.GOOS != "linux":
		f.Verdict, f.Fact, f.Todo = verdictWarn, "not known on this system; "+size(int64(limit))+" are assumed", "set --memory to a size, such as 2GiB"
	case limit < littleMemory:
		f.Verdict, f.Todo = verdictWarn, fmt.Sprintf("little; give it %s or more", size(littleMemory))
	}
	return f
}

func checkDescriptors() finding {
	f := finding{Check: "descriptors", Verdict: verdictOK}
	limit, err := descriptorLimit()
	switch {
	case err != nil:
		f.Verdict, f.Fact, f.Todo = verdictWarn, err.Error(), "see to it that many files may be open (ulimit -n)"
	case limit < fewDescriptors:
		f.Verdict, f.Fact = verdictWarn, fmt.Sprintf("at most %d files may be open", limit)
		f.Todo = fmt.Sprintf("raise the limit to %d or more (ulimit -n, LimitNOFILE), or lower --max-live", fewDescriptors)
	default:
		f.Fact = fmt.Sprintf("%d files may be open", limit)
	}
	return f
}

// checkData looks at the folder, or at the nearest parent that exists, where serve
// would create it.
func (s *session) checkData(ctx context.Context, data string) []finding {
	dir := s.path(data)
	for {
		if info, err := os.Stat(dir); err == nil {
			if !info.IsDir() {
				return []finding{{Check: "data folder", Verdict: verdictFail, Fact: dir + " is a file", Todo: "name a folder with --data"}}
			}
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	file, err := os.CreateTemp(dir, ".agentd-doctor-*")
	if err != nil {
		return []finding{{Check: "data folder", Verdict: verdictFail, Fact: err.Error(), Todo: "choose a folder that this user may write to with --data"}}
	}
	defer os.Remove(file.Name())
	defer file.Close()
	return []finding{
		{Check: "data folder", Verdict: verdictOK, Fact: dir + " can be written"},
		checkSpace(dir),
		s.checkSync(ctx, file),
	}
}

func checkSpace(dir string) finding {
	f := finding{Check: "disk space", Verdict: verdictOK}
	free, doubt, err := freeBytes(dir)
	if err != nil {
		f.Verdict, f.Fact, f.Todo = verdictWarn, err.Error(), "see to it that there is space"
		return f
	}
	f.Fact = size(int64(free)) + " free"
	switch {
	case free < noBytesFree:
		f.Verdict, f.Todo = verdictFail, "free some space"
	case free < fewBytesFree:
		f.Verdict, f.Todo = verdictWarn, "little; agents stop writing when the disk is full"
	case doubt != "":
		f.Verdict, f.Todo = verdictWarn, doubt
	}
	return f
}

// checkSync measures what every commit waits for: a small write that is on disk.
func (s *session) checkSync(ctx context.Context, file *os.File) finding {
	f := finding{Check: "synced write", Verdict: verdictOK}
	block := make([]byte, syncWriteBytes)
	var took []time.Duration
	begin := s.Now()
	for n := range syncWrites {
		start := s.Now()
		_, err := file.WriteAt(block, int64(n)*syncWriteBytes)
		if err == nil {
			err = file.Sync()
		}
		if err != nil {
			f.Verdict, f.Fact, f.Todo = verdictFail, err.Error(), "use a disk that can sync what is written"
			return f
		}
		end := s.Now()
		took = append(took, end.Sub(start))
		if ctx.Err() != nil || end.Sub(begin) > syncTimeLimit {
			break
		}
	}
	slices.Sort(took)
	median := took[len(took)/2]
	f.Fact = fmt.Sprintf("median %v over %d writes of 4 KiB", median.Round(time.Microsecond), len(took))
	if median > slowSync {
		f.Verdict, f.Todo = verdictWarn, "slow: every commit waits for this; use an SSD"
	}
	return f
}

// checkPort says whether a server could listen there; ours says that the port is
// taken by the agentd that answered.
func checkPort(name, flag, addr string, ours bool) finding {
	f := finding{Check: name, Verdict: verdictOK, Fact: addr + " is free"}
	listener, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		if err := listener.Close(); err != nil {
			f.Verdict, f.Fact = verdictWarn, err.Error()
		}
	case ours:
		f.Fact = addr + " is in use, as it should be: agentd is running"
	default:
		f.Verdict, f.Fact, f.Todo = verdictFail, err.Error(), "stop what listens there, or choose another address with "+flag
	}
	return f
}

// checkServer asks the server for its health and version.
func (c *doctorCommand) checkServer(ctx context.Context, s *session, token string) (f finding, answers bool) {
	f = finding{Check: "server", Verdict: verdictWarn}
	ctx, cancel := context.WithTimeout(ctx, nodeAnswerLimit)
	defer cancel()
	opts, err := c.options(s)
	if err != nil {
		f.Fact = err.Error()
		return f, false
	}
	cl, err := client.Dial(ctx, append(opts, client.WithAddr(c.Addr), client.WithToken(token))...)
	if err != nil {
		f.Fact = err.Error()
		return f, false
	}
	defer cl.Close()
	err = cl.Health(ctx)
	switch kind := agent.KindOf(err); {
	case err == nil:
	case kind == agent.Unauthenticated:
		f.Fact, f.Todo = c.Addr+" answers and lets nobody in without a token: "+err.Error(), "give it with --token-file"
		return f, true
	case kind == agent.Denied:
		f.Verdict, f.Fact = verdictOK, c.Addr+" answers; this token may not ask for its version"
		return f, true
	default:
		f.Fact = err.Error()
		return f, false
	}
	version, err := cl.Version(ctx)
	switch {
	case err != nil:
		f.Fact = fmt.Sprintf("%s answers, but does not tell its version: %v", c.Addr, err)
	case version != s.Version:
		f.Fact, f.Todo = fmt.Sprintf("%s runs %s, this is %s", c.Addr, version, s.Version), "use the same version on both sides"
	default:
		f.Verdict, f.Fact = verdictOK, fmt.Sprintf("%s answers, version %s", c.Addr, version)
	}
	return f, true
}

// isHealthy says whether an agentd answers on its HTTP address.
func isHealthy(ctx context.Context, addr string, cfg *tls.Config) bool {
	ctx, cancel := context.WithTimeout(ctx, nodeAnswerLimit)
	defer cancel()
	scheme := "http"
	if cfg != nil {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+addr+"/healthz", nil)
	if err != nil {
		return false
	}
	once := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	response, err := once.Do(request)
	if err != nil {
		return false
	}
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}

// samePort compares the ports of two addresses.
func samePort(a, b string) bool {
	_, p, err := net.SplitHostPort(a)
	_, q, err2 := net.SplitHostPort(b)
	return err == nil && err2 == nil && p == q
}
