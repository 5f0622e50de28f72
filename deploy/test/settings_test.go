package deploytest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// clusterSettings are settings that docs/configuration.md does not list yet.
var clusterSettings = []string{
	"AGENTD_PEER", "AGENTD_JOIN", "AGENTD_BOOTSTRAP_EXPECT", "AGENTD_PEER_TLS_DIR", "AGENTD_TLS_CERT", "AGENTD_TLS_KEY",
	"AGENTD_TLS_CA", "AGENTD_AUTH_TOKENS", "AGENTD_DRAIN_TIMEOUT",
}

// TestSettings_AreKnown: an environment variable that is misspelled is ignored, so it
// must be found here.
func TestSettings_AreKnown(t *testing.T) {
	docs, err := os.ReadFile(filepath.Join(root, "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	name := regexp.MustCompile(`AGENTD_[A-Z][A-Z_]*[A-Z]`)
	for _, setting := range name.FindAllString(string(docs), -1) {
		known[setting] = true
	}
	for _, setting := range clusterSettings {
		if known[setting] {
			t.Errorf("%s is in the docs now: take it off the list above", setting)
		}
		known[setting] = true
	}
	err = filepath.WalkDir(deploy, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "test" {
			return filepath.SkipDir
		}
		if d.IsDir() || d.Type() == fs.ModeSymlink {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "would be read as settings") {
				continue // names one that is none
			}
			for _, setting := range name.FindAllString(line, -1) {
				if !known[setting] {
					t.Errorf("%s: nobody knows %s", path, setting)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
