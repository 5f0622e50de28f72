// Package certs makes and checks the certificates of a cluster: its CA, the nodes'
// certificates, the TLS configurations of the peer and client ports with rotation
// while they are in use, and the tokens with which nodes join. It knows neither
// what travels over the connections nor what their holders may do (pkg/auth).
package certs
