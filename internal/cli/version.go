package cli

import "runtime"

type versionCommand struct {
	output
}

// Run prints the version of this program, not of a server: doctor compares them.
func (c *versionCommand) Run(s *session) error {
	if s.json {
		return s.printValue(map[string]string{"version": s.Version, "go": runtime.Version(),
			"os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	return s.say("agentd %s (%s, %s/%s)", s.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
