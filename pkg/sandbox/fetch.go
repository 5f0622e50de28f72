package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/dop251/goja"
)

// Bounds of fetch.
const (
	maxBody      = 64 << 20 // bytes of a request or response body
	maxRedirects = 20
)

func (i *Isolate) http() *goja.Object {
	return i.part("http", map[string]nativeFunc{
		"encode":   i.encode,
		"parseURL": i.parseURL,
		"method":   i.method,
		"exchange": i.exchange,
		"decodeText": func(c goja.FunctionCall) goja.Value {
			return i.decodeUTF8(&decoder{}, decoding{}, i.input(c.Argument(0), "the body"))
		},
		"concat": func(c goja.FunctionCall) goja.Value {
			var all []byte
			i.vm.ForOf(c.Argument(0), func(v goja.Value) bool {
				all = append(all, i.input(v, "a chunk of the body")...)
				return true
			})
			return i.uint8Array(all)
		},
	})
}

// parseURL makes a URL absolute and canonical, or throws TypeError.
func (i *Isolate) parseURL(call goja.FunctionCall) goja.Value {
	o, err := i.vm.New(i.member(i.urls(), "URL"), call.Argument(0))
	if err != nil {
		i.throw("TypeError", fmt.Sprintf("Invalid URL: %.200q", call.Argument(0).String()))
	}
	return o.Get("href")
}

// method checks and normalizes an HTTP method.
func (i *Isolate) method(call goja.FunctionCall) goja.Value {
	m := call.Argument(0).String()
	switch upper := strings.ToUpper(m); upper {
	case "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT":
		m = upper
	case "CONNECT", "TRACE", "TRACK":
		i.throw("TypeError", upper+" is not allowed as a method")
	}
	if m == "" || len(m) > 64 || strings.ContainsFunc(m, func(r rune) bool {
		return r <= ' ' || r >= 0x7F || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r)
	}) {
		i.throw("TypeError", fmt.Sprintf("%.80q is not a valid HTTP method", m))
	}
	return i.vm.ToValue(m)
}

// exchange starts a request: (method, url, [[name, value]…], body, redirect) gives
// [promise of the response, cancel].
func (i *Isolate) exchange(call goja.FunctionCall) goja.Value {
	x := exchange{i: i, method: call.Argument(0).String(), url: call.Argument(1).String(), redirect: call.Argument(4).String(), header: http.Header{}}
	i.vm.ForOf(call.Argument(2), func(v goja.Value) bool {
		pair := v.ToObject(i.vm)
		x.header.Add(pair.Get("0").String(), pair.Get("1").String())
		return true
	})
	if b, ok := i.bytesOf(call.Argument(3)); ok {
		if len(b) > maxBody {
			i.throw("TypeError", fmt.Sprintf("fetch failed: the request body has %d bytes; at most %d are allowed", len(b), maxBody))
		}
		x.body = append([]byte{}, b...)
	}
	own, cancelOwn := context.WithCancel(i.ctx)
	x.open = i.gate()
	done := i.Async(func(context.Context) func(*goja.Runtime) (any, error) {
		defer cancelOwn()
		r, err := x.run(own)
		return func(vm *goja.Runtime) (any, error) {
			if err != nil {
				return nil, &ScriptError{Name: "TypeError", Message: "fetch failed: " + err.Error(), Err: err}
			}
			return i.responseValue(r), nil
		}
	})
	cancel := i.native("cancel", 0, func(goja.FunctionCall) goja.Value {
		cancelOwn()
		return goja.Undefined()
	})
	return i.vm.NewArray(done, cancel)
}

// exchange is one fetch with its redirects. Its fields are copies: run is on a
// goroutine of its own.
type exchange struct {
	i                     *Isolate
	method, url, redirect string
	header                http.Header
	body                  []byte
	open                  <-chan error // answers once when the request may leave
}

type received struct {
	status     int
	statusText string
	header     http.Header
	body       []byte
	url        string
	redirected bool
}

func (x *exchange) run(ctx context.Context) (*received, error) {
	if x.i.cfg.Fetch == nil {
		return nil, errors.New("no network access was given to this code")
	}
	if err := x.pass(ctx); err != nil {
		return nil, err
	}
	for hops := 0; ; hops++ {
		r, next, err := x.hop(ctx)
		if err != nil {
			return nil, err
		}
		if next == "" {
			r.redirected = hops > 0
			return r, nil
		}
		if hops >= maxRedirects {
			return nil, fmt.Errorf("more than %d redirects", maxRedirects)
		}
		if err := x.follow(r.status, next); err != nil {
			return nil, err
		}
	}
}

// gate takes a place behind everything written so far. It belongs to the turn, so
// it is called on the loop; the channel gives one answer.
func (i *Isolate) gate() <-chan error {
	open := make(chan error, 1)
	if i.cfg.Gate == nil {
		open <- nil
	} else {
		i.cfg.Gate(func(err error) { open <- err })
	}
	return open
}

// pass waits at the gate: nothing leaves before what was written is durable.
func (x *exchange) pass(ctx context.Context) error {
	select {
	case err := <-x.open:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hop does one exchange; next is where a redirect that is to be followed leads.
func (x *exchange) hop(ctx context.Context) (r *received, next string, err error) {
	var body io.Reader
	if x.body != nil {
		body = bytes.NewReader(x.body)
	}
	req, err := http.NewRequestWithContext(ctx, x.method, x.url, body)
	if err != nil {
		return nil, "", err
	}
	if scheme := req.URL.Scheme; scheme != "http" && scheme != "https" {
		return nil, "", fmt.Errorf("the scheme %q is not supported", scheme)
	}
	req.Header = x.header.Clone()
	req.Header.Del("Host") // the URL decides
	res, err := x.i.cfg.Fetch(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	r = &received{status: res.StatusCode, statusText: strings.TrimPrefix(res.Status, fmt.Sprintf("%d ", res.StatusCode)), header: res.Header, url: x.url}
	location := res.Header.Get("Location")
	if redirects(res.StatusCode) && location != "" && x.redirect != "manual" {
		if x.redirect == "error" {
			return nil, "", fmt.Errorf("%s redirects, and redirect is \"error\"", x.url)
		}
		return r, location, nil
	}
	tooLarge := fmt.Errorf("the response is larger than %d bytes", maxBody)
	if res.ContentLength > maxBody {
		return nil, "", tooLarge
	}
	if r.body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1)); err != nil {
		return nil, "", fmt.Errorf("read the response: %w", err)
	}
	if len(r.body) > maxBody {
		return nil, "", tooLarge
	}
	return r, "", nil
}

func redirects(status int) bool {
	switch status {
	case 301, 302, 303, 307, 308:
		return true
	}
	return false
}

// follow turns to the target of a redirect; credentials stay with their origin.
func (x *exchange) follow(status int, location string) error {
	from, err := url.Parse(x.url)
	if err != nil {
		return err
	}
	to, err := from.Parse(location)
	if err != nil {
		return fmt.Errorf("the redirect target %.200q is not a URL", location)
	}
	if to.Fragment == "" {
		to.Fragment = from.Fragment
	}
	if status == 303 && x.method != "HEAD" || (status == 301 || status == 302) && x.method == "POST" {
		x.method, x.body = "GET", nil
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Location"} {
			x.header.Del(name)
		}
	}
	if to.Scheme != from.Scheme || to.Host != from.Host {
		for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
			x.header.Del(name)
		}
	}
	x.url = to.String()
	return nil
}

// responseValue is what the script makes a Response of.
func (i *Isolate) responseValue(r *received) goja.Value {
	o := i.vm.NewObject()
	pairs := []any{}
	for name, values := range r.header {
		for _, v := range values {
			pairs = append(pairs, i.vm.NewArray(name, v))
		}
	}
	for name, v := range map[string]any{"status": r.status, "statusText": r.statusText, "headers": i.vm.NewArray(pairs...),
		"body": i.uint8Array(r.body), "url": r.url, "redirected": r.redirected} {
		i.must(o.Set(name, v))
	}
	return o
}
