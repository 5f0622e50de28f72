package cli

import (
	"fmt"
	"time"

	"agentd/internal/certs"
	"agentd/pkg/auth"
)

// fewDaysLeft is when a certificate's end is worth a word.
const fewDaysLeft = 14 * 24 * time.Hour

// checkSecurity looks at the files that were named: what serve would refuse, and what
// ends soon.
func (c *doctorCommand) checkSecurity(s *session) []finding {
	var findings []finding
	if c.TLSCert != "" && c.TLSKey != "" {
		findings = append(findings, c.checkCertificate(s))
	}
	if c.AuthTokens != "" {
		findings = append(findings, c.checkTokens(s))
	}
	return findings
}

func (c *doctorCommand) checkCertificate(s *session) finding {
	f := finding{Check: "certificate", Verdict: verdictOK}
	serving, err := certs.ClientTLS(certs.ClientFiles{Cert: s.path(c.TLSCert), Key: s.path(c.TLSKey), ClientCA: s.optionalPath(c.TLSClientCA)},
		certs.Options{Now: s.Now})
	if err != nil {
		f.Verdict, f.Fact, f.Todo = verdictFail, err.Error(), "make a new one, for example with `agentd cluster init-tls --renew`"
		return f
	}
	end := serving.Expires()
	f.Fact = "valid until " + end.UTC().Format(time.RFC3339)
	if end.Sub(s.Now()) < fewDaysLeft {
		f.Verdict, f.Todo = verdictWarn, "ends soon: replace the files; a running server takes them without a restart"
	}
	return f
}

func (c *doctorCommand) checkTokens(s *session) finding {
	f := finding{Check: "tokens", Verdict: verdictOK}
	text, err := readTokens(s.path(c.AuthTokens))
	var all []auth.TokenInfo
	if err == nil {
		all, err = auth.ReadTokens(text, c.AuthTokens)
	}
	if err != nil {
		f.Verdict, f.Fact, f.Todo = verdictFail, err.Error(), "mend it; `agentd token check FILE` tells when it is right"
		return f
	}
	ended, ending := 0, 0
	for _, t := range all {
		switch left := t.Expires.Sub(s.Now()); {
		case t.Expires.IsZero():
		case left <= 0:
			ended++
		case left < fewDaysLeft:
			ending++
		}
	}
	f.Fact = fmt.Sprintf("%d tokens, %d expired, %d end within two weeks", len(all), ended, ending)
	switch {
	case len(all) == ended:
		f.Verdict, f.Todo = verdictWarn, "nobody can come in: make a token with `agentd token new`"
	case ended+ending > 0:
		f.Verdict, f.Todo = verdictWarn, "`agentd token check FILE` shows which"
	}
	return f
}
