package auth

import (
	"fmt"
	"net"

	"agentd/pkg/agent"
)

// CheckListen refuses an address that other machines can reach, unless what is said
// there is encrypted and those who say it are authenticated, or the operator takes
// the risk with insecure. The error is of kind Invalid (no address) or Denied.
func CheckListen(addr string, tls, auth, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return &agent.Error{Op: "check listen address", Kind: agent.Invalid, Msg: fmt.Sprintf("%.120q is no address: write HOST:PORT", addr), Err: err}
	}
	if host == "localhost" || insecure || tls && auth {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	var lack string
	switch {
	case !tls && !auth:
		lack = "neither TLS nor authentication is configured: make certificates with `agentd cluster init-tls` and tokens with `agentd token new`"
	case !tls:
		lack = "without TLS everybody on the way can read the tokens: make certificates with `agentd cluster init-tls`"
	default:
		lack = "everybody who reaches it may do everything: make tokens with `agentd token new`, or name an issuer of JWTs"
	}
	return &agent.Error{Op: "check listen address", Kind: agent.Denied, Msg: fmt.Sprintf(
		"%s can be reached from other machines, and %s; or listen on 127.0.0.1, or say --insecure if the network is trusted", addr, lack)}
}
