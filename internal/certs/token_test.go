package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

var secret = bytes.Repeat([]byte{7}, MinSecretBytes)

func TestJoinToken_ProvesAndTells(t *testing.T) {
	ca, _ := newCA(t, "prod")
	text := must[string](t)(NewJoinToken(secret, "prod", ca.Fingerprint(), epoch, 0))
	if strings.ContainsAny(text, " \n") {
		t.Errorf("not one word: %q", text)
	}
	want := JoinToken{Cluster: "prod", Expires: epoch.Add(time.Hour), CA: ca.Fingerprint()}
	if got := must[JoinToken](t)(ParseJoinToken(text)); got != want {
		t.Errorf("parsed %+v, want %+v", got, want)
	}
	if got := must[JoinToken](t)(CheckJoinToken(secret, "prod", text, epoch.Add(time.Hour-time.Second))); got != want {
		t.Errorf("checked %+v", got)
	}
	bare := must[string](t)(NewJoinToken(secret, "prod", Fingerprint{}, epoch, time.Minute))
	token := must[JoinToken](t)(CheckJoinToken(secret, "prod", bare, epoch))
	_, err := token.Dial(newClock().Now)
	wantKind(t, err, agent.Invalid)
}

func TestJoinToken_RefusesWhatIsNotTrue(t *testing.T) {
	text := must[string](t)(NewJoinToken(secret, "prod", Fingerprint{1}, epoch, 0))
	other := bytes.Repeat([]byte{8}, MinSecretBytes)
	tests := []struct {
		name, text string
		secret     []byte
		cluster    string
		now        time.Time
		words      string
	}{
		{"expired", text, secret, "prod", epoch.Add(time.Hour), "expired on 2051-03-01 13:00 UTC"},
		{"another secret", text, other, "prod", epoch, "was not made by this cluster"},
		{"another cluster", text, secret, "staging", epoch, `is for cluster "prod", this one is "staging"`},
		{"later end", strings.Replace(text, ".25", ".26", 1), secret, "prod", epoch, "was not made by this cluster"},
		{"another CA", strings.Replace(text, ".01", ".02", 1), secret, "prod", epoch, "was not made by this cluster"},
		{"cut", text[:len(text)-1], secret, "prod", epoch, "malformed"},
		{"longer", text + "A", secret, "prod", epoch, "malformed"},
		{"empty", "", secret, "prod", epoch, "malformed"},
	}
	for _, test := range tests {
		if test.text == text && (test.name == "later end" || test.name == "another CA") {
			t.Fatalf("%s: nothing was changed in %s", test.name, text)
		}
		_, err := CheckJoinToken(test.secret, test.cluster, test.text, test.now)
		if err == nil || agent.KindOf(err) != agent.Unauthenticated || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// Every byte counts.
	for i := range len(text) {
		changed := []byte(text)
		changed[i] ^= 1
		if _, err := CheckJoinToken(secret, "prod", string(changed), epoch); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, text[len(text)-1])
	if _, err := CheckJoinToken(secret, "prod", text[:len(text)-1]+alphabet[last+1:last+2], epoch); err == nil {
		t.Error("the signature has a second spelling")
	}
	for name, err := range map[string]error{
		"short secret": second(NewJoinToken(secret[1:], "prod", Fingerprint{}, epoch, 0)),
		"no secret":    second(CheckJoinToken(nil, "prod", text, epoch)),
		"long life":    second(NewJoinToken(secret, "prod", Fingerprint{}, epoch, MaxJoinTTL+1)),
		"no life":      second(NewJoinToken(secret, "prod", Fingerprint{}, epoch, -1)),
		"cluster":      second(NewJoinToken(secret, "a.b", Fingerprint{}, epoch, 0)),
	} {
		if err == nil || agent.KindOf(err) != agent.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A node that has only the token trusts the CA that it names, whoever answers.
func TestJoinToken_PinsTheCA(t *testing.T) {
	c := newClock()
	ca, _ := newCA(t, "prod")
	imposter, _ := newCA(t, "prod")
	staging := *ca
	staging.cluster = "staging"
	text := must[string](t)(NewJoinToken(secret, "prod", ca.Fingerprint(), epoch, 0))
	dial := must[*tls.Config](t)(must[JoinToken](t)(ParseJoinToken(text)).Dial(c.Now))
	serve := func(ca *CA) *tls.Config {
		dir := newNode(t, ca, Request{Name: "n1"})
		return must[*Serving](t)(ClientTLS(ClientFiles{Cert: filepath.Join(dir, NodeCertFile), Key: filepath.Join(dir, NodeKeyFile)}, Options{Now: c.Now})).Config()
	}
	if m := handshake(t, serve(ca), dial); m.err() != nil {
		t.Fatal(m.err())
	}
	m := handshake(t, serve(imposter), dial)
	wantKind(t, m.client, agent.Unauthenticated)
	m = handshake(t, serve(&staging), dial)
	wantKind(t, m.client, agent.Denied)
	// The imposter shows the pinned CA beside a chain of its own.
	forged := serve(imposter)
	pair := must[*tls.Certificate](t)(forged.GetCertificate(nil))
	shown := *pair
	shown.Certificate = [][]byte{pair.Certificate[0], ca.cert.Raw}
	forged.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &shown, nil }
	m = handshake(t, forged, dial)
	wantKind(t, m.client, agent.Unauthenticated)
}

func FuzzParseJoinToken(f *testing.F) {
	text, err := NewJoinToken(secret, "prod", Fingerprint{1}, epoch, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("agentd-join-1.prod.1.none." + strings.Repeat("A", 43))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseJoinToken(text)
		if err == nil && (ValidateCluster(token.Cluster) != nil || len(text) > maxJoinBytes) {
			t.Errorf("%q gave %+v", text, token)
		}
		if _, err := CheckJoinToken(secret, "prod", text, epoch); err == nil && !strings.HasPrefix(text, "agentd-join-1.prod.") {
			t.Errorf("%q is accepted", text)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("agentd://prod/node/n1")
	f.Add("agentd://a/ca/root")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseIdentity(text)
		if err != nil {
			return
		}
		if id.String() != text {
			t.Errorf("%q has another spelling: %q", text, id)
		}
		if back, err := identityOf(&x509.Certificate{URIs: appendURL(id)}); err != nil || back != id {
			t.Errorf("%q does not survive a certificate: %v, %v", text, back, err)
		}
	})
}

func FuzzKeyring(f *testing.F) {
	ca, _ := newCA(f, "prod")
	dir := newNode(f, ca, Request{Name: "n1"})
	f.Add(get(f, filepath.Join(dir, CACertFile)), get(f, filepath.Join(dir, NodeCertFile)), get(f, filepath.Join(dir, NodeKeyFile)))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X"}), []byte("-----BEGIN CERTIFICATE-----"), []byte{})
	f.Fuzz(func(t *testing.T, ca, cert, key []byte) {
		if k, err := parseKeyring(ca, cert, key, "prod", epoch); err == nil && k.self.Cluster != "prod" {
			t.Errorf("accepted for %v", k.self)
		}
		_, _ = parseCA(ca, key)
	})
}

func appendURL(id Identity) []*url.URL { return []*url.URL{id.url()} }
