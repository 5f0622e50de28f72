// Package deploytest reads every file of deploy/ with the parser of whoever will read
// it in earnest. It starts nothing.
package deploytest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	podsecurity "k8s.io/pod-security-admission/api"
	podpolicy "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	kustomize "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// deploy is the folder under test.
const deploy = ".."

// kinds are the types that our manifests may have.
var kinds = map[string]func() any{
	"v1/Namespace":                            func() any { return new(core.Namespace) },
	"v1/ServiceAccount":                       func() any { return new(core.ServiceAccount) },
	"v1/ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1/Secret":                               func() any { return new(core.Secret) },
	"v1/Service":                              func() any { return new(core.Service) },
	"apps/v1/StatefulSet":                     func() any { return new(apps.StatefulSet) },
	"policy/v1/PodDisruptionBudget":           func() any { return new(policy.PodDisruptionBudget) },
	"networking.k8s.io/v1/NetworkPolicy":      func() any { return new(network.NetworkPolicy) },
	"monitoring.coreos.com/v1/ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
	"monitoring.coreos.com/v1/PrometheusRule": func() any { return new(monitoring.PrometheusRule) },
}

// objects are decoded manifests by "Kind/name".
type objects map[string]any

// add decodes a stream of documents: no unknown field, no field twice, no object twice.
func (o objects) add(text []byte) error {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		doc, err := reader.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal(doc, &head); err != nil {
			return err
		}
		if head.Kind == "" {
			if len(bytes.TrimSpace(stripComments(doc))) > 0 {
				return fmt.Errorf("a document without kind: %.100s", doc)
			}
			continue
		}
		create, known := kinds[head.APIVersion+"/"+head.Kind]
		if !known {
			return fmt.Errorf("%s of %s is of no kind that is expected here", head.Kind, head.APIVersion)
		}
		object := create()
		if err := yaml.UnmarshalStrict(doc, object); err != nil {
			return fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
		}
		key := head.Kind + "/" + head.Metadata.Name
		if o[key] != nil {
			return fmt.Errorf("%s is there twice", key)
		}
		o[key] = object
	}
}

func stripComments(doc []byte) []byte {
	var out [][]byte
	for _, line := range bytes.Split(doc, []byte("\n")) {
		trimmed := bytes.TrimSpace(line)
		if !bytes.HasPrefix(trimmed, []byte("#")) && !bytes.Equal(trimmed, []byte("---")) {
			out = append(out, line)
		}
	}
	return bytes.Join(out, nil)
}

// get is the one object of T, which must be there.
func get[T any](t *testing.T, o objects, key string) *T {
	t.Helper()
	object, ok := o[key].(*T)
	if !ok {
		t.Fatalf("%s is missing", key)
	}
	return object
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{deploy}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// plain are the manifests of a kustomization, read file by file as they are.
func plain(t *testing.T, dir string) objects {
	t.Helper()
	all := objects{}
	var k kustomize.Kustomization
	if err := yaml.UnmarshalStrict(read(t, "kubernetes", dir, "kustomization.yaml"), &k); err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	listed := map[string]bool{}
	for _, resource := range k.Resources {
		listed[resource] = true
		if strings.HasPrefix(resource, "../") {
			for key, object := range plain(t, filepath.Join(dir, resource)) {
				all[key] = object
			}
			continue
		}
		if err := all.add(read(t, "kubernetes", dir, resource)); err != nil {
			t.Errorf("%s/%s: %v", dir, resource, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(deploy, "kubernetes", dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name := filepath.Base(file); name != "kustomization.yaml" && !listed[name] {
			t.Errorf("%s/%s is in no kustomization", dir, name)
		}
	}
	return all
}

func TestManifests_DecodeStrictly(t *testing.T) {
	if n := len(plain(t, "base")); n != 8 {
		t.Errorf("%d objects in the base, not 8", n)
	}
	if n := len(plain(t, "monitoring")); n != 9 {
		t.Errorf("%d objects with monitoring, not 9", n)
	}
	examples := objects{}
	for _, file := range []string{"secret-tls.yaml", "secret-tokens.yaml"} {
		text := read(t, "kubernetes", "examples", file)
		if err := examples.add(text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if bytes.Contains(text, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a key", file)
		}
	}
	checkSecrets(t, plain(t, "base"), examples)
}

// checkSecrets holds the examples against what the pods mount.
func checkSecrets(t *testing.T, base, examples objects) {
	t.Helper()
	pod := get[apps.StatefulSet](t, base, "StatefulSet/agentd").Spec.Template.Spec
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			get[core.Secret](t, examples, "Secret/"+v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for i, source := range v.Projected.Sources {
			if i >= 3 {
				break // for nodes that may come
			}
			secret := get[core.Secret](t, examples, "Secret/"+source.Secret.Name)
			for _, item := range source.Secret.Items {
				if secret.StringData[item.Key] == "" {
					t.Errorf("the example %s lacks %s", secret.Name, item.Key)
				}
			}
		}
	}
}

func TestKustomizations_Build(t *testing.T) {
	for dir, want := range map[string]int{"base": 8, "monitoring": 9} {
		built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(deploy, "kubernetes", dir))
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		text, err := built.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		all := objects{}
		if err := all.add(text); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if len(all) != want {
			t.Errorf("%s: %d objects, not %d", dir, len(all), want)
		}
		// Nothing is changed on the way: what one reads is what one gets.
		if files := plain(t, dir); !reflect.DeepEqual(files, all) {
			t.Errorf("%s: what is built is not what is written:\n%s", dir, difference(t, files, all))
		}
	}
}

func TestPods_PassTheRestrictedProfile(t *testing.T) {
	namespace := get[core.Namespace](t, plain(t, "base"), "Namespace/agentd")
	if level := namespace.Labels["pod-security.kubernetes.io/enforce"]; level != "restricted" {
		t.Errorf("the namespace enforces %q", level)
	}
	evaluator, err := podpolicy.NewEvaluator(podpolicy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, all := range worlds(t) {
		set := get[apps.StatefulSet](t, all, "StatefulSet/agentd")
		level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
		results := evaluator.EvaluatePod(level, &set.Spec.Template.ObjectMeta, &set.Spec.Template.Spec)
		if r := podpolicy.AggregateCheckResults(results); !r.Allowed {
			t.Errorf("%s: %s", name, r.ForbiddenDetail())
		}
		for _, c := range set.Spec.Template.Spec.Containers {
			if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s: %s can write to its image", name, c.Name)
			}
		}
	}
}

// TestNodes_RunAsTheyMust holds the rules that a cluster of agentd depends on.
func TestNodes_RunAsTheyMust(t *testing.T) {
	for name, all := range worlds(t) {
		t.Run(name, func(t *testing.T) {
			set := get[apps.StatefulSet](t, all, "StatefulSet/agentd")
			pod := set.Spec.Template.Spec
			if len(pod.Containers) != 1 {
				t.Fatalf("%d containers", len(pod.Containers))
			}
			if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
				t.Error("Kubernetes' AGENTD_… variables would be read as settings")
			}
			if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
				t.Error("pods get a token of the Kubernetes API")
			}
			if set.Spec.PodManagementPolicy != apps.ParallelPodManagement {
				t.Error("the first node would wait for a majority that is not started")
			}
			if r := set.Spec.PersistentVolumeClaimRetentionPolicy; r == nil || r.WhenDeleted != apps.RetainPersistentVolumeClaimRetentionPolicyType {
				t.Error("deleting the set deletes the data")
			}
			checkGrace(t, all, pod)
			checkProbes(t, pod.Containers[0])
			checkServices(t, all, set)
			checkReferences(t, all, set)
		})
	}
}

// checkGrace wants more time before the kill than the drain may take.
func checkGrace(t *testing.T, all objects, pod core.PodSpec) {
	t.Helper()
	text := get[core.ConfigMap](t, all, "ConfigMap/agentd").Data["AGENTD_DRAIN_TIMEOUT"]
	drain := duration(t, text)
	if pod.TerminationGracePeriodSeconds == nil || *pod.TerminationGracePeriodSeconds < int64(drain.Seconds())+10 {
		t.Errorf("a node drains %v and is killed after %v s", drain, pod.TerminationGracePeriodSeconds)
	}
	if l := pod.Containers[0].Lifecycle; l != nil {
		t.Error("SIGTERM drains; a hook would only take from its time")
	}
}

func checkProbes(t *testing.T, c core.Container) {
	t.Helper()
	for probe, path := range map[*core.Probe]string{c.StartupProbe: "/healthz", c.LivenessProbe: "/healthz", c.ReadinessProbe: "/readyz"} {
		switch {
		case probe == nil || probe.HTTPGet == nil:
			t.Errorf("the probe of %s is missing", path)
		case probe.HTTPGet.Path != path:
			t.Errorf("a probe asks %s, not %s", probe.HTTPGet.Path, path)
		case probe.HTTPGet.Port.StrVal != "http":
			t.Errorf("the probe of %s asks port %s", path, probe.HTTPGet.Port.String())
		}
	}
}

func checkServices(t *testing.T, all objects, set *apps.StatefulSet) {
	t.Helper()
	peers := get[core.Service](t, all, "Service/"+set.Spec.ServiceName)
	if peers.Spec.ClusterIP != core.ClusterIPNone || !peers.Spec.PublishNotReadyAddresses {
		t.Error("nodes cannot find each other before they are ready")
	}
	budget := get[policy.PodDisruptionBudget](t, all, "PodDisruptionBudget/agentd")
	if budget.Spec.MaxUnavailable == nil || *budget.Spec.MaxUnavailable != intstr.FromInt32(1) {
		t.Error("more than one node may be taken away at a time")
	}
	labels := set.Spec.Template.Labels
	selectors := map[string]map[string]string{
		"set": set.Spec.Selector.MatchLabels, "budget": budget.Spec.Selector.MatchLabels,
		"service": get[core.Service](t, all, "Service/agentd").Spec.Selector, "peers": peers.Spec.Selector,
		"network policy": get[network.NetworkPolicy](t, all, "NetworkPolicy/agentd").Spec.PodSelector.MatchLabels,
	}
	for who, selector := range selectors {
		if len(selector) == 0 {
			t.Errorf("%s selects everything", who)
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects %s=%s, and pods have %q", who, k, v, labels[k])
			}
		}
	}
	for _, service := range []*core.Service{peers, get[core.Service](t, all, "Service/agentd")} {
		for _, port := range service.Spec.Ports {
			if portOf(set, port.TargetPort.StrVal) != port.Port {
				t.Errorf("%s: %s is no port of the container", service.Name, port.TargetPort.String())
			}
		}
	}
}

func portOf(set *apps.StatefulSet, name string) int32 {
	for _, p := range set.Spec.Template.Spec.Containers[0].Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}

// checkReferences wants each name that is used to be defined.
func checkReferences(t *testing.T, all objects, set *apps.StatefulSet) {
	t.Helper()
	pod := set.Spec.Template.Spec
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range set.Spec.VolumeClaimTemplates {
		volumes[c.Name] = true
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		for _, e := range pod.Containers[0].Env {
			if e.Name == "AGENTD_DATA" && m.Name == set.Spec.VolumeClaimTemplates[0].Name && e.Value != m.MountPath {
				t.Errorf("data go to %s and the disk is at %s", e.Value, m.MountPath)
			}
		}
		if !volumes[m.Name] {
			t.Errorf("%s is mounted and no volume", m.Name)
		}
		delete(volumes, m.Name)
	}
	if len(volumes) > 0 {
		t.Errorf("volumes that are not mounted: %v", volumes)
	}
	for _, from := range pod.Containers[0].EnvFrom {
		get[core.ConfigMap](t, all, "ConfigMap/"+from.ConfigMapRef.Name)
	}
	get[core.ServiceAccount](t, all, "ServiceAccount/"+pod.ServiceAccountName)
	for key, object := range all {
		labels := reflect.ValueOf(object).Elem().FieldByName("Labels").Interface().(map[string]string)
		for _, err := range validation.ValidateLabels(labels, nil) {
			t.Errorf("%s: %v", key, err)
		}
	}
	// Each node of the first cluster is named in the seeds by the name that it announces.
	config := get[core.ConfigMap](t, all, "ConfigMap/agentd").Data
	for i := range strings.Count(config["AGENTD_JOIN"], ",") + 1 {
		seed := fmt.Sprintf("%s-%d.%s:%d", set.Name, i, set.Spec.ServiceName, portOf(set, "peer"))
		if !strings.Contains(config["AGENTD_JOIN"], seed) {
			t.Errorf("%s is not among the seeds %s", seed, config["AGENTD_JOIN"])
		}
	}
}
