// Package jsagent runs a deployed JavaScript class as an actor.Behavior and
// provides the modules agents, cloudflare:workers and cloudflare:workflows.
//
// One instance is one isolate over one agent's database. Rows and their rules live
// in Go (state, SQL, key-value storage, alarm, fibers, schedules); what is glue
// between promises lives in js/*.js. The package knows nothing of the network: calls
// to other agents and requests leave through functions that it is given.
package jsagent
