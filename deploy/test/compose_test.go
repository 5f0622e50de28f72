package deploytest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	compose "github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

func project(t *testing.T) *compose.Project {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(deploy, "compose"))
	if err != nil {
		t.Fatal(err)
	}
	// The loader checks against the schema of compose, which knows no other fields.
	p, err := loader.LoadWithContext(context.Background(), compose.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []compose.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}},
		Environment: compose.Mapping{},
	}, loader.WithProfiles([]string{"*"}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose_NodesRunAsTheyMust(t *testing.T) {
	p := project(t)
	keys := map[string]string{}
	for _, name := range []string{"n1", "n2", "n3"} {
		s, err := p.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		env := func(key string) string {
			if v := s.Environment[key]; v != nil {
				return *v
			}
			return ""
		}
		if env("AGENTD_NODE") != name || env("AGENTD_PEER") != name+":7690" || !strings.Contains(env("AGENTD_JOIN"), env("AGENTD_PEER")) {
			t.Errorf("%s calls itself %q at %q, and seeds are %q", name, env("AGENTD_NODE"), env("AGENTD_PEER"), env("AGENTD_JOIN"))
		}
		if env("AGENTD_BOOTSTRAP_EXPECT") != "3" || env("AGENTD_INSECURE") != "" {
			t.Errorf("%s: settings are %v", name, s.Environment)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < duration(t, env("AGENTD_DRAIN_TIMEOUT"))+10*time.Second {
			t.Errorf("%s is killed while it drains", name)
		}
		if s.HealthCheck == nil || !slices.Equal(s.HealthCheck.Test, []string{"CMD", "/usr/bin/agentd", "ping"}) {
			t.Errorf("%s has no health check", name)
		}
		if s.DependsOn["setup"].Condition != compose.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s does not wait for its certificate", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to other machines", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if owner, taken := keys[v.Source]; taken && v.Source != "tokens" {
				t.Errorf("%s and %s share %s", owner, name, v.Source)
			}
			keys[v.Source] = name
			if v.Source == "ca" || v.Source == "admin" {
				t.Errorf("%s can read %s", name, v.Source)
			}
			if v.Target != "/data" && !v.ReadOnly {
				t.Errorf("%s can write to %s", name, v.Target)
			}
		}
	}
}

func TestCompose_ServicesGiveUpPrivileges(t *testing.T) {
	for name, s := range project(t).Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged {
			t.Errorf("%s has more privileges than it needs", name)
		}
	}
}

func TestCompose_BuildsStagesThatAre(t *testing.T) {
	have := map[string]bool{"": true}
	for _, stage := range stages(t) {
		have[stage.Name] = true
	}
	for name, s := range project(t).Services {
		if s.Build == nil {
			t.Errorf("%s is not built", name)
			continue
		}
		if !have[s.Build.Target] {
			t.Errorf("%s is built from stage %q, which is none", name, s.Build.Target)
		}
		if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCompose_SetupHasFoldersForItsVolumes: a volume takes its owner from the folder
// in the image; without one it would belong to root.
func TestCompose_SetupHasFoldersForItsVolumes(t *testing.T) {
	s, err := project(t).GetService("setup")
	if err != nil {
		t.Fatal(err)
	}
	docker := string(read(t, "docker", "Dockerfile"))
	for _, v := range s.Volumes {
		if !strings.Contains(docker, "/out"+v.Target) {
			t.Errorf("the image has no folder %s", v.Target)
		}
	}
	if len(s.Volumes) != 6 {
		t.Errorf("%d volumes", len(s.Volumes))
	}
}

// agentdScript stands for `agentd cluster init-tls` as docs have it: a folder for
// each node, and a refusal where there is one.
const agentdScript = `#!/bin/sh
echo "$*" >>"$LOG"
[ "$1 $2 $3 $5 $7" = "cluster init-tls --dir --cluster --node" ] || exit 2
[ -z "${FAIL:-}" ] || { mkdir -p "$4/$8"; exit 1; }
[ -e "$4/$8" ] && exit 1
mkdir -p "$4/$8"
[ -e "$4/ca.key" ] || { echo key >"$4/ca.key"; echo ca >"$4/ca.crt"; }
cp "$4/ca.crt" "$4/$8/ca.crt"
echo "crt $8" >"$4/$8/node.crt"
echo "key $8" >"$4/$8/node.key"
`

// setup runs setup.sh with a stand-in for agentd.
func setup(t *testing.T, dir string, env ...string) (calls string, err error) {
	t.Helper()
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(filepath.Join(bin, "agentd"), []byte(agentdScript), 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join(deploy, "compose", "setup.sh"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/bin/sh", script)
	c.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "SETUP=" + dir, "LOG=" + log}, env...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Logf("%s", out)
	}
	text, _ := os.ReadFile(log) // absent: nothing was called
	return string(text), err
}

// volumes are the folders that setup.sh finds.
func volumes(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"ca", "n1", "n2", "n3", "tokens", "admin"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree is every file below dir with its contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSetup_GivesEachNodeItsOwnKey(t *testing.T) {
	dir := volumes(t)
	if _, err := setup(t, dir); err != nil {
		t.Fatal(err)
	}
	files := tree(t, dir)
	for _, node := range []string{"n1", "n2", "n3"} {
		if files[node+"/node.key"] != "key "+node+"\n" || files[node+"/ca.crt"] != "ca\n" || files[node+"/node.crt"] == "" {
			t.Errorf("%s has %v", node, files)
		}
	}
	if len(files) != 2+3*3+1+2 {
		t.Errorf("%d files: %v", len(files), files)
	}
}

func TestSetup_MakesATokenThatNodesKnowByItsHashOnly(t *testing.T) {
	dir := volumes(t)
	if _, err := setup(t, dir); err != nil {
		t.Fatal(err)
	}
	files := tree(t, dir)
	token := strings.TrimSuffix(files["admin/token"], "\n")
	if !regexp.MustCompile(`^agentd_[A-Za-z0-9_-]{43}$`).MatchString(token) {
		t.Fatalf("the token is %q", token)
	}
	var list struct {
		Tokens []struct {
			Name       string   `json:"name"`
			SHA256     string   `json:"sha256"`
			Namespaces []string `json:"namespaces"`
			Services   []string `json:"services"`
			Access     string   `json:"access"`
		} `json:"tokens"`
	}
	text := files["tokens/tokens.yaml"]
	if err := yaml.UnmarshalStrict([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(token))
	if len(list.Tokens) != 1 || list.Tokens[0].SHA256 != hex.EncodeToString(sum[:]) || list.Tokens[0].Access != "admin" {
		t.Errorf("%+v", list)
	}
	if strings.Contains(text, token) {
		t.Error("nodes know the token")
	}
}

func TestSetup_ChangesNothingTheSecondTime(t *testing.T) {
	dir := volumes(t)
	if _, err := setup(t, dir); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	calls, err := setup(t, dir)
	if err != nil || calls != "" {
		t.Errorf("called %q: %v", calls, err)
	}
	after := tree(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s has changed", name)
		}
	}
}

func TestSetup_FinishesWhatWasCutOff(t *testing.T) {
	dir := volumes(t)
	if _, err := setup(t, dir, "FAIL=1"); err == nil {
		t.Fatal("a failure is not passed on: nodes would start without certificates")
	}
	if _, err := setup(t, dir); err != nil {
		t.Fatal(err)
	}
	if files := tree(t, dir); files["n3/node.key"] == "" || files["tokens/tokens.yaml"] == "" {
		t.Errorf("%v", files)
	}
}
