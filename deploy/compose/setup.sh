#!/bin/sh
# Makes what three nodes need to trust each other and their clients, once: a CA, a
# certificate for each node, and a token for the administrator. It may run again; what
# is there stays. Each folder below SETUP is a volume of its own, so that a node sees
# its own key and nobody else's, and no node the CA's.
set -eu

SETUP=${SETUP:-/setup}
NODES=${NODES:-n1 n2 n3}
umask 077

for node in $NODES; do
	[ -e "$SETUP/$node/node.crt" ] && continue
	rm -rf "$SETUP/ca/$node" # of a run that was cut off
	# Clients reach a node by its name inside the network, by localhost outside.
	agentd cluster init-tls --dir "$SETUP/ca" --cluster compose --node "$node"
	for file in ca.crt node.key node.crt; do # node.crt last: it says that the node is done
		cp "$SETUP/ca/$node/$file" "$SETUP/$node/$file"
	done
	rm -r "$SETUP/ca/$node"
done
cp "$SETUP/ca/ca.crt" "$SETUP/admin/ca.crt"

if [ ! -e "$SETUP/tokens/tokens.yaml" ]; then
	token=agentd_$(head -c 32 /dev/urandom | base64 | tr -d '=\n' | tr '+/' '-_')
	sum=$(printf %s "$token" | sha256sum | cut -d ' ' -f 1)
	printf '%s\n' "$token" >"$SETUP/admin/token"
	# Nodes hold the token's hash only.
	cat >"$SETUP/tokens/tokens.yaml.new" <<EOF
tokens:
  - name: admin
    sha256: "$sum"
    namespaces: ["*"]
    services: ["*"]
    access: admin
EOF
	mv "$SETUP/tokens/tokens.yaml.new" "$SETUP/tokens/tokens.yaml"
fi
echo "certificates and tokens are in place"
