package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
)

// How often an issuer is asked, whatever clients send.
const (
	keysFresh    = 10 * time.Minute // then they are fetched again, while the old ones serve
	keysOld      = 24 * time.Hour   // without a successful fetch for this long the keys are given up
	fetchEvery   = 30 * time.Second // least time between two fetches, also for a key that is not in the set
	fetchRetry   = 5 * time.Second  // the same, while there are no keys at all
	fetchTimeout = 5 * time.Second
	maxWaiting   = 64 // callers that wait for a fetch; more are told to come again
	maxRedirects = 3
)

// issuer is a keySource that fetches a JWKS over HTTP.
type issuer struct {
	name   string // of the issuer
	url    string // of the JWKS; empty to discover it
	client *http.Client
	now    func() time.Time
	report func(error)
	life   context.Context // ends with close
	end    context.CancelFunc
	wg     sync.WaitGroup

	set   atomic.Pointer[keySet] // stored under mu
	stale atomic.Int64           // ns since 1970: from then on current looks whether a fetch is due

	mu       sync.Mutex    // guards what follows; no I/O and no callback under it
	fetching chan struct{} // closed when the fetch under way ends; nil without one
	waiting  int
	tried    time.Time // begin of the last fetch
	fetched  time.Time // end of the last good one
	closed   bool
}

func newIssuer(cfg JWT, common Config) (*issuer, error) {
	where := cfg.KeysURL
	if where == "" {
		where = cfg.Issuer
	}
	if err := checkURL(where); err != nil {
		return nil, &agent.Error{Op: "configure authentication", Kind: agent.Invalid, Msg: "the issuer's keys cannot be fetched", Err: err}
	}
	s := &issuer{name: cfg.Issuer, url: cfg.KeysURL, client: fetcher(cfg.Client), now: common.Now, report: common.Report}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// fetcher limits where a client may be sent.
func fetcher(base *http.Client) *http.Client {
	if base == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.DisableKeepAlives = true // one request in ten minutes
		base = &http.Client{Transport: transport}
	}
	limited := *base
	limited.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return checkURL(req.URL.String())
	}
	return &limited
}

// checkURL accepts https, and http that does not leave the machine.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return err
	case u.Host == "" || u.User != nil:
		return fmt.Errorf("%.200q is no plain URL", text)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()):
		return nil
	}
	return fmt.Errorf("%.200q is not https", text)
}

func (s *issuer) current() *keySet {
	if now := s.now(); now.UnixNano() >= s.stale.Load() {
		s.mu.Lock()
		s.ageLocked(now)
		s.mu.Unlock()
	}
	return s.set.Load()
}

// ageLocked begins a fetch of keys that are there and no longer fresh, and gives up
// keys that are too old.
func (s *issuer) ageLocked(now time.Time) {
	if s.set.Load() == nil {
		return // refresh fetches the first ones
	}
	if now.Sub(s.fetched) >= keysOld {
		s.set.Store(nil)
		return
	}
	s.beginLocked(now)
	s.stale.Store(now.Add(fetchEvery).UnixNano())
}

func (s *issuer) refresh(ctx context.Context, older *keySet) (*keySet, error) {
	s.mu.Lock()
	if set := s.set.Load(); set != older && set != nil {
		s.mu.Unlock()
		return set, nil
	}
	s.beginLocked(s.now())
	done, set := s.fetching, s.set.Load()
	switch {
	case done == nil && set != nil: // too soon to ask again
		s.mu.Unlock()
		return set, nil
	case done == nil:
		s.mu.Unlock()
		return nil, s.unavailable("retry in some seconds")
	case s.waiting >= maxWaiting:
		s.mu.Unlock()
		return nil, s.unavailable("too many requests wait for them; retry")
	}
	s.waiting++
	s.mu.Unlock()
	var gaveUp error
	select {
	case <-done:
	case <-ctx.Done():
		gaveUp = agent.FromContext(ctx, "fetch keys", agent.ID{})
	}
	s.mu.Lock()
	s.waiting--
	set = s.set.Load()
	s.mu.Unlock()
	switch {
	case gaveUp != nil:
		return nil, gaveUp
	case set == nil:
		return nil, s.unavailable("retry in some seconds")
	}
	return set, nil
}

// unavailable leaves out why: a client need not learn how the node reaches its
// issuer. report has told the operator.
func (s *issuer) unavailable(advice string) error {
	return &agent.Error{Op: "authenticate", Kind: agent.Unavailable, Msg: fmt.Sprintf("the keys of the issuer %.200q are not here; %s", s.name, advice)}
}

// beginLocked starts a fetch unless one is under way or the last one is too recent.
// The fetch belongs to the node and not to the request that caused it, so nobody
// can spend the right to fetch and cancel.
func (s *issuer) beginLocked(now time.Time) {
	wait := fetchEvery
	if s.set.Load() == nil {
		wait = fetchRetry
	}
	if since := now.Sub(s.tried); s.closed || s.fetching != nil || since >= 0 && since < wait {
		return
	}
	s.tried = now
	done := make(chan struct{})
	s.fetching = done
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, fetchTimeout)
		set, err := s.fetch(ctx)
		cancel()
		s.settle(set, err)
		close(done)
		if err != nil && s.report != nil && s.life.Err() == nil {
			s.report(&agent.Error{Op: "fetch keys", Kind: agent.Unavailable, Err: err,
				Msg: fmt.Sprintf("the keys of the issuer %.200q cannot be fetched; the old ones stay for %v at most", s.name, keysOld)})
		}
	})
}

// settle takes in the result of a fetch.
func (s *issuer) settle(set *keySet, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetching = nil
	if err != nil {
		return
	}
	s.fetched = s.now()
	s.stale.Store(s.fetched.Add(keysFresh).UnixNano())
	if old := s.set.Load(); old == nil || old.sum != set.sum { // the same keys keep what was verified with them
		s.set.Store(set)
	}
}

func (s *issuer) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.wg.Wait()
}

func (s *issuer) fetch(ctx context.Context) (*keySet, error) {
	where := s.url
	if where == "" {
		var err error
		if where, err = s.discover(ctx); err != nil {
			return nil, err
		}
	}
	text, err := s.get(ctx, where)
	if err != nil {
		return nil, err
	}
	return parseKeys(text)
}

// discover reads where the keys are from the issuer's OpenID configuration.
func (s *issuer) discover(ctx context.Context) (string, error) {
	text, err := s.get(ctx, strings.TrimSuffix(s.name, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return "", fmt.Errorf("the OpenID configuration is not JSON: %w", err)
	}
	if doc.Issuer != s.name {
		return "", fmt.Errorf("the OpenID configuration is that of another issuer, %.200q", doc.Issuer)
	}
	return doc.Keys, checkURL(doc.Keys)
}

func (s *issuer) get(ctx context.Context, where string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() // read to the limit or given up
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%.200s answered %s", where, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxKeysBytes+1)) // one more, so that parseKeys sees that it is too much
}
