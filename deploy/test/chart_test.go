package deploytest

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	helm "helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var chartDir = filepath.Join(deploy, "helm", "agentd")

// values parses YAML, after the values of files of the chart.
func values(t *testing.T, text string, files ...string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, file := range files {
		all = loader.MergeMaps(all, parse(t, read(t, "helm", "agentd", file)))
	}
	return loader.MergeMaps(all, parse(t, []byte(text)))
}

func parse(t *testing.T, text []byte) map[string]any {
	t.Helper()
	v := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// release is an installation named agentd in the namespace agentd.
func release() common.ReleaseOptions {
	return common.ReleaseOptions{Name: "agentd", Namespace: "agentd", Revision: 1, IsInstall: true}
}

// loadChart reads the chart once; rendering does not change it. The loader tells the
// log of each symbolic link (alerts and dashboard are such).
var loadChart = sync.OnceValues(func() (helm.Charter, error) {
	old := slog.Default()
	defer slog.SetDefault(old)
	slog.SetDefault(slog.New(slog.DiscardHandler))
	return loader.LoadDir(chartDir)
})

func render(t *testing.T, v map[string]any, r common.ReleaseOptions) (all objects, notes string, err error) {
	t.Helper()
	chart, err := loadChart()
	if err != nil {
		t.Fatal(err)
	}
	top, err := chartutil.ToRenderValues(chart, v, r, nil)
	if err != nil {
		return nil, "", err
	}
	out, err := engine.Engine{Strict: true}.RenderWithContext(t.Context(), chart, top)
	if err != nil {
		return nil, "", err
	}
	all = objects{}
	for _, name := range slices.Sorted(maps.Keys(out)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			notes = out[name]
			continue
		}
		if err := all.add([]byte(out[name])); err != nil {
			return nil, "", fmt.Errorf("%s: %w\n%s", name, err, out[name])
		}
	}
	return all, notes, nil
}

func mustRender(t *testing.T, v map[string]any) objects {
	t.Helper()
	all, _, err := render(t, v, release())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// everything switches on and changes all that values can.
const everything = `
image: {repository: registry.test/a, digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
imagePullSecrets: [{name: pull}]
replicas: 5
bootstrapExpect: 5
clusterDomain: k8s.test
settings: {AGENTD_MAX_LIVE: "8192", AGENTD_LOG_LEVEL: debug}
drainTimeoutSeconds: 90
tls: {secretPrefix: certs, keys: {cert: tls.crt, key: tls.key}, slots: 9, servingSecret: public}
auth: {tokensSecret: who}
storage: {size: 1Ti, storageClass: nvme, whenScaled: Delete}
antiAffinity: preferred
nodeSelector: {disk: nvme}
tolerations: [{key: agents, operator: Exists}]
priorityClassName: high
podLabels: {team: a}
podAnnotations: {note: b}
seccompProfile: {type: Localhost, localhostProfile: profiles/agentd.json}
serviceAccount: {annotations: {a: b}}
service: {type: LoadBalancer, annotations: {c: d}}
serviceMonitor: {enabled: true, interval: 30s, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true}
`

// worlds are the plain manifests and the chart under several values.
func worlds(t *testing.T) map[string]objects {
	t.Helper()
	return map[string]objects{
		"plain":       plain(t, "monitoring"),
		"default":     mustRender(t, nil),
		"one node":    mustRender(t, values(t, "", "values-one-node.yaml")),
		"three nodes": mustRender(t, values(t, "", "values-three-nodes.yaml")),
		"everything":  mustRender(t, values(t, everything)),
		"insecure":    mustRender(t, values(t, "insecure: true\nserviceMonitor: {enabled: true}", "values-one-node.yaml")),
	}
}

// TestChart_MakesThePlainManifests keeps the two from drifting apart.
func TestChart_MakesThePlainManifests(t *testing.T) {
	want := plain(t, "monitoring")
	delete(want, "Namespace/agentd") // helm install --create-namespace makes it
	got := mustRender(t, values(t, "serviceMonitor: {enabled: true}"))
	for _, all := range []objects{want, got} {
		for _, object := range all {
			normalize(object)
		}
	}
	if diff := difference(t, want, got); diff != "" {
		t.Errorf("the chart (+) and the plain manifests (-) differ:\n%s", diff)
	}
}

// normalize takes away what only the chart has: marks of helm, and the sum that
// restarts the pods.
func normalize(object any) {
	meta := reflect.ValueOf(object).Elem().FieldByName("ObjectMeta").Addr().Interface().(*metav1.ObjectMeta)
	for _, label := range []string{"app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} {
		delete(meta.Labels, label)
	}
	if set, ok := object.(*apps.StatefulSet); ok {
		delete(set.Spec.Template.Annotations, "checksum/config")
		if len(set.Spec.Template.Annotations) == 0 {
			set.Spec.Template.Annotations = nil
		}
	}
}

// difference lists the lines in which two sets of objects differ; "" if they do not.
func difference(t *testing.T, want, got objects) string {
	t.Helper()
	var out strings.Builder
	keys := slices.Sorted(maps.Keys(want))
	for key := range got {
		if want[key] == nil {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if reflect.DeepEqual(want[key], got[key]) {
			continue
		}
		fmt.Fprintf(&out, "%s\n", key)
		a, b := lines(t, want[key]), lines(t, got[key])
		for _, line := range a {
			if !slices.Contains(b, line) {
				fmt.Fprintf(&out, "- %s\n", line)
			}
		}
		for _, line := range b {
			if !slices.Contains(a, line) {
				fmt.Fprintf(&out, "+ %s\n", line)
			}
		}
	}
	return out.String()
}

func lines(t *testing.T, object any) []string {
	t.Helper()
	if object == nil {
		return []string{"(missing)"}
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

func TestChart_HasNothingToLint(t *testing.T) {
	for _, file := range []string{"", "values-one-node.yaml", "values-three-nodes.yaml"} {
		var v map[string]any
		if file != "" {
			v = values(t, "", file)
		}
		for _, m := range lint.RunAll(chartDir, v, "agentd").Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", file, m)
			}
		}
	}
}

func TestChart_DoesWhatValuesSay(t *testing.T) {
	all := mustRender(t, values(t, everything))
	set := get[apps.StatefulSet](t, all, "StatefulSet/agentd")
	pod := set.Spec.Template.Spec
	c := pod.Containers[0]
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	config := get[core.ConfigMap](t, all, "ConfigMap/agentd").Data
	var tls core.Volume
	for _, v := range pod.Volumes {
		if v.Name == "tls" {
			tls = v
		}
	}
	for what, pair := range map[string][2]any{
		"image":     {c.Image, "registry.test/a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
		"replicas":  {*set.Spec.Replicas, int32(5)},
		"expect":    {config["AGENTD_BOOTSTRAP_EXPECT"], "5"},
		"seeds":     {strings.Count(config["AGENTD_JOIN"], ":7690"), 5},
		"setting":   {config["AGENTD_MAX_LIVE"], "8192"},
		"default":   {config["AGENTD_LOG_FORMAT"], "json"},
		"drain":     {config["AGENTD_DRAIN_TIMEOUT"], "90s"},
		"grace":     {*pod.TerminationGracePeriodSeconds, int64(105)},
		"peer":      {env["AGENTD_PEER"], "$(AGENTD_NODE).agentd-peers.$(POD_NAMESPACE).svc.k8s.test:7690"},
		"cert":      {env["AGENTD_TLS_CERT"], "/etc/agentd/serving/tls.crt"},
		"slots":     {len(tls.Projected.Sources), 9},
		"secret":    {tls.Projected.Sources[8].Secret.Name, "certs-8"},
		"key":       {tls.Projected.Sources[8].Secret.Items[1], core.KeyToPath{Key: "tls.crt", Path: "agentd-8/node.crt"}},
		"seccomp":   {*pod.SecurityContext.SeccompProfile.LocalhostProfile, "profiles/agentd.json"},
		"class":     {*set.Spec.VolumeClaimTemplates[0].Spec.StorageClassName, "nvme"},
		"service":   {get[core.Service](t, all, "Service/agentd").Spec.Type, core.ServiceTypeLoadBalancer},
		"monitor":   {get[monitoring.ServiceMonitor](t, all, "ServiceMonitor/agentd").Labels["release"], "prometheus"},
		"affinity":  {len(pod.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution), 0},
		"dashboard": {get[core.ConfigMap](t, all, "ConfigMap/agentd-dashboard").Data["agentd.json"], strings.TrimRight(string(read(t, "observability", "dashboard.json")), "\n")},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s is %v, not %v", what, pair[0], pair[1])
		}
	}
}

func TestChart_InsecureSaysSoAndMountsNoKeys(t *testing.T) {
	all, notes, err := render(t, values(t, "insecure: true"), release())
	if err != nil {
		t.Fatal(err)
	}
	pod := get[apps.StatefulSet](t, all, "StatefulSet/agentd").Spec.Template.Spec
	for _, e := range pod.Containers[0].Env {
		if strings.Contains(e.Name, "TLS") {
			t.Errorf("%s is set", e.Name)
		}
	}
	config := get[core.ConfigMap](t, all, "ConfigMap/agentd").Data
	if config["AGENTD_INSECURE"] != "true" || config["AGENTD_AUTH_TOKENS"] != "" {
		t.Errorf("settings are %v", config)
	}
	if pod.Containers[0].ReadinessProbe.HTTPGet.Scheme != core.URISchemeHTTP {
		t.Error("the probe speaks TLS")
	}
	if !strings.Contains(notes, "THIS INSTALLATION IS INSECURE") {
		t.Errorf("the notes do not warn:\n%s", notes)
	}
	secure, notes, err := render(t, nil, release())
	if err != nil {
		t.Fatal(err)
	}
	if config := get[core.ConfigMap](t, secure, "ConfigMap/agentd").Data; config["AGENTD_INSECURE"] != "" {
		t.Error("the default is insecure")
	}
	for _, command := range []string{"init-tls --dir tls --node agentd-2,agentd.agentd.svc", "create secret generic agentd-tls-2 --from-file=tls/agentd-2", "create secret generic agentd-tokens"} {
		if !strings.Contains(notes, command) {
			t.Errorf("the notes lack %q:\n%s", command, notes)
		}
	}
}

// TestChart_LetsNobodyInByAnEmptyList: a rule without peers would mean everybody.
func TestChart_LetsNobodyInByAnEmptyList(t *testing.T) {
	all := mustRender(t, values(t, "networkPolicy: {clients: [], metrics: [], dns: [], egress: []}"))
	p := get[network.NetworkPolicy](t, all, "NetworkPolicy/agentd").Spec
	if len(p.Ingress) != 1 || len(p.Egress) != 1 {
		t.Fatalf("%d rules for what comes in and %d for what goes out, not one each", len(p.Ingress), len(p.Egress))
	}
	if len(p.Ingress[0].From) != 1 || len(p.Egress[0].To) != 1 || len(p.PolicyTypes) != 2 {
		t.Errorf("%+v", p)
	}
}

// TestChart_GrowsWithoutARestart: a new number of nodes must not change the pods of
// those that run, nor what makes a cluster.
func TestChart_GrowsWithoutARestart(t *testing.T) {
	upgrade := release()
	upgrade.IsInstall, upgrade.IsUpgrade = false, true
	three := mustRender(t, nil)
	for _, replicas := range []int{1, 5} {
		after, _, err := render(t, values(t, fmt.Sprintf("replicas: %d", replicas)), upgrade)
		if err != nil {
			t.Fatal(err)
		}
		before := get[apps.StatefulSet](t, three, "StatefulSet/agentd").Spec.Template
		if now := get[apps.StatefulSet](t, after, "StatefulSet/agentd").Spec.Template; !reflect.DeepEqual(before, now) {
			t.Errorf("%d replicas restart the nodes", replicas)
		}
	}
	changed := mustRender(t, values(t, "settings: {AGENTD_IDLE: 5s}"))
	if reflect.DeepEqual(get[apps.StatefulSet](t, three, "StatefulSet/agentd").Spec.Template, get[apps.StatefulSet](t, changed, "StatefulSet/agentd").Spec.Template) {
		t.Error("a changed setting reaches nobody")
	}
}

func TestChart_TwoReleasesShareNothing(t *testing.T) {
	other := release()
	other.Name = "second"
	second, _, err := render(t, values(t, everything), other)
	if err != nil {
		t.Fatal(err)
	}
	first := mustRender(t, values(t, everything))
	for key := range first {
		if second[key] != nil {
			t.Errorf("both have %s", key)
		}
	}
	set := get[apps.StatefulSet](t, second, "StatefulSet/second")
	if set.Spec.Selector.MatchLabels["app.kubernetes.io/instance"] != "second" {
		t.Errorf("the selector is %v", set.Spec.Selector.MatchLabels)
	}
}

func TestChart_RefusesBadValues(t *testing.T) {
	long := release()
	long.Name = strings.Repeat("x", 41)
	upgrade := release()
	upgrade.IsInstall, upgrade.IsUpgrade = false, true
	for name, test := range map[string]struct {
		values string
		say    string
		as     common.ReleaseOptions
	}{
		"no nodes":                {"replicas: 0", "replicas", release()},
		"replicas as text":        {`replicas: "3"`, "replicas", release()},
		"misspelled":              {"replica: 3", "replica", release()},
		"misspelled inside":       {"storage: {sizes: 1Gi}", "sizes", release()},
		"a size that is none":     {"storage: {size: big}", "size", release()},
		"a number as setting":     {"settings: {AGENTD_MAX_LIVE: 8192}", "AGENTD_MAX_LIVE", release()},
		"not one of ours":         {"settings: {PATH: /}", "invalid propertyName 'PATH'", release()},
		"the chart's own setting": {"settings: {AGENTD_JOIN: a}", "invalid propertyName 'AGENTD_JOIN'", release()},
		"more than it will get":   {"replicas: 1", "bootstrapExpect=3", release()},
		"more than certificates":  {"replicas: 6", "tls.slots is 5", upgrade},
		"unconfined":              {"seccompProfile: {type: Unconfined}", "seccompProfile", release()},
		"a digest that is none":   {"image: {digest: latest}", "digest", release()},
		"affinity":                {"antiAffinity: never", "antiAffinity", release()},
		"a long name":             {"{}", "40 bytes", long},
	} {
		_, _, err := render(t, values(t, test.values), test.as)
		if err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v, which does not speak of %q", name, err, test.say)
		}
	}
}

// TestChart_DocumentsEveryValue: the schema and values.yaml name the same values.
func TestChart_DocumentsEveryValue(t *testing.T) {
	var schema struct {
		Properties map[string]any `json:"properties"`
	}
	if err := yaml.Unmarshal(read(t, "helm", "agentd", "values.schema.json"), &schema); err != nil {
		t.Fatal(err)
	}
	v := values(t, "", "values.yaml")
	for name := range schema.Properties {
		if _, ok := v[name]; !ok && name != "global" {
			t.Errorf("values.yaml lacks %s", name)
		}
	}
}
