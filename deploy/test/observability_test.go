package deploytest

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	promparser "github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"sigs.k8s.io/yaml"
)

var promQL = promparser.NewParser(promparser.Options{})

// metric is a row of the table in observability/README.md.
type metric struct {
	kind   string
	labels []string
	exists bool
}

func table(t *testing.T) map[string]metric {
	t.Helper()
	row := regexp.MustCompile("^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\| (.*) ?\\| (existing|planned) \\| .+ \\|$")
	all := map[string]metric{}
	for line := range strings.Lines(string(read(t, "observability", "README.md"))) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		m := row.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Errorf("not a row of the table: %s", line)
			continue
		}
		if _, twice := all[m[1]]; twice {
			t.Errorf("%s is there twice", m[1])
		}
		labels := regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(m[3], -1)
		entry := metric{kind: m[2], exists: m[4] == "existing"}
		for _, l := range labels {
			entry.labels = append(entry.labels, l[1])
		}
		all[m[1]] = entry
	}
	return all
}

// usage is which metrics of the table an expression reads, and with which labels.
type usage struct {
	table map[string]metric
	seen  map[string]bool
}

// targetLabels come from Prometheus, not from us.
var targetLabels = []string{model.MetricNameLabel, "job", "instance", "namespace", "le"}

// check parses an expression and holds its metrics and labels against the table.
func (u *usage) check(t *testing.T, where, text string) {
	t.Helper()
	expr, err := promQL.ParseExpr(text)
	if err != nil {
		t.Errorf("%s: %v\n%s", where, err, text)
		return
	}
	allowed := slices.Clone(targetLabels)
	promparser.Inspect(expr, func(node promparser.Node, _ []promparser.Node) error {
		s, ok := node.(*promparser.VectorSelector)
		if !ok {
			return nil
		}
		name := s.Name
		entry, ok := u.table[name]
		if base, found := cutSuffix(name); !ok && found {
			entry, ok = u.table[base]
			ok = ok && entry.kind == "histogram"
			name = base
		} else if ok && entry.kind == "histogram" {
			ok = false // has no series of its own name
		}
		if !ok {
			t.Errorf("%s: %s is not in the table", where, s.Name)
		}
		u.seen[name] = true
		for _, m := range s.LabelMatchers {
			if !slices.Contains(targetLabels, m.Name) && !slices.Contains(entry.labels, m.Name) {
				t.Errorf("%s: %s has no label %s", where, s.Name, m.Name)
			}
		}
		allowed = append(allowed, entry.labels...)
		return nil
	})
	promparser.Inspect(expr, func(node promparser.Node, _ []promparser.Node) error {
		if a, ok := node.(*promparser.AggregateExpr); ok {
			for _, label := range a.Grouping {
				if !slices.Contains(allowed, label) {
					t.Errorf("%s: groups by %s, which no metric of it has", where, label)
				}
			}
		}
		return nil
	})
	u.checkRates(t, where, expr)
}

// checkRates: a gauge has no rate, and a counter is of no use without one.
func (u *usage) checkRates(t *testing.T, where string, expr promparser.Expr) {
	t.Helper()
	promparser.Inspect(expr, func(node promparser.Node, _ []promparser.Node) error {
		call, ok := node.(*promparser.Call)
		if !ok || (call.Func.Name != "rate" && call.Func.Name != "increase") {
			return nil
		}
		m, ok := call.Args[0].(*promparser.MatrixSelector)
		if !ok {
			return nil
		}
		name := m.VectorSelector.(*promparser.VectorSelector).Name
		if u.table[name].kind == "gauge" {
			t.Errorf("%s: %s of %s, which is a gauge", where, call.Func.Name, name)
		}
		return nil
	})
}

// cutSuffix finds the histogram that a series is part of.
func cutSuffix(name string) (base string, found bool) {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base, true
		}
	}
	return name, false
}

func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.Parse(read(t, "observability", "alerts.yaml"), false, model.UTF8Validation, promQL, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Errorf("alerts.yaml: %v", err)
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no rules")
	}
	return all
}

type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Targets []struct {
		RefID string `json:"refId"`
		Expr  string `json:"expr"`
	} `json:"targets"`
}

// dashboard is the file, with Grafana's variables replaced as Grafana does.
func dashboard(t *testing.T) []panel {
	t.Helper()
	text := string(read(t, "observability", "dashboard.json"))
	for name, value := range map[string]string{"$__rate_interval": "1m", "$namespace": ".*", "$instance": ".*"} {
		text = strings.ReplaceAll(text, name, value)
	}
	var d struct {
		UID    string  `json:"uid"`
		Title  string  `json:"title"`
		Panels []panel `json:"panels"`
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID != "agentd" || d.Title == "" || len(d.Panels) == 0 {
		t.Fatalf("%+v", d)
	}
	return d.Panels
}

// TestMetrics_OfFilesAndTableAreTheSame: nothing is asked for that the table does not
// have, and the table has nothing that nobody asks for.
func TestMetrics_OfFilesAndTableAreTheSame(t *testing.T) {
	u := &usage{table: table(t), seen: map[string]bool{}}
	for _, r := range rules(t) {
		u.check(t, r.Alert, r.Expr)
	}
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			u.check(t, p.Title, target.Expr)
		}
	}
	for name := range u.table {
		if !u.seen[name] {
			t.Errorf("%s is in the table, and neither an alert nor a panel uses it", name)
		}
	}
}

// TestMetrics_ExistWhereTheTableSaysSo looks for the names in the product's source.
func TestMetrics_ExistWhereTheTableSaysSo(t *testing.T) {
	source := sourceMetrics(t)
	for name, m := range table(t) {
		if !strings.HasPrefix(name, "agentd_") {
			continue // of Prometheus' own collectors
		}
		switch {
		case m.exists && !source[name]:
			t.Errorf("the table says that %s exists, and the source has it not", name)
		case !m.exists && source[name]:
			t.Errorf("%s exists: say so in the table", name)
		}
	}
}

// sourceMetrics are the strings in the product's source that could name a metric.
// Tables in agents' databases begin the same way, so that a name may be taken for a
// metric that is none, which matters only if the table has it.
func sourceMetrics(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, dir := range []string{"pkg", "internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if text, err := strconv.Unquote(lit.Value); err == nil && regexp.MustCompile(`^agentd_[a-z_]+$`).MatchString(text) {
						found[text] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !found["agentd_agents_live"] {
		t.Fatal("no metrics found in the source")
	}
	return found
}

func TestDashboard_IsWellFormed(t *testing.T) {
	ids := map[int]bool{}
	type cell struct{ x, y int }
	taken := map[cell]string{}
	for _, p := range dashboard(t) {
		if ids[p.ID] {
			t.Errorf("two panels have id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d shows nothing", p.ID)
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s is off the grid", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[cell{x, y}]; other != "" {
					t.Fatalf("%s covers %s", p.Title, other)
				}
				taken[cell{x, y}] = p.Title
			}
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] {
				t.Errorf("%s: two targets %s", p.Title, target.RefID)
			}
			refs[target.RefID] = true
		}
	}
}

func TestAlerts_SayWhatToDo(t *testing.T) {
	names := map[string]bool{}
	for _, r := range rules(t) {
		if names[r.Alert] {
			t.Errorf("two alerts %s", r.Alert)
		}
		names[r.Alert] = true
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say what to do", r.Alert)
		}
	}
}

// alertCases are, for each alert, series under which it must be raised after two
// hours, and series under which it must not. A sample a minute.
var alertCases = map[string]struct{ raise, quiet []string }{
	"AgentdNodeDown":     {[]string{`up{job="agentd"} 1 0x120`}, []string{`up{job="agentd"} 1x120`, `up{job="other"} 0x120`}},
	"AgentdMajorityLost": {series(`up{job="agentd",namespace="a",instance="%s"}`, "1x120", "0x120", "0x120"), series(`up{job="agentd",namespace="a",instance="%s"}`, "1x120", "1x120", "0x120")},
	"AgentdNotReady":     {[]string{`agentd_ready{instance="1"} 0x120`}, []string{`agentd_ready{instance="1"} 1x120`}},
	"AgentdShardWithoutOwner": {series(`agentd_raft_leader{shard="7",instance="%s"}`, "0x120", "0x120", "0x120"),
		series(`agentd_raft_leader{shard="7",instance="%s"}`, "0x120", "1x120", "0x120")},
	"AgentdElections": {[]string{`agentd_raft_term{shard="7"} 1+1x120`}, []string{`agentd_raft_term{shard="7"} 1x115 2x5`}},
	"AgentdRestarts":  {[]string{`process_start_time_seconds{job="agentd"} 0+300x120`}, []string{`process_start_time_seconds{job="agentd"} 0x115 6900x5`}},
	"AgentdErrors": {[]string{`agentd_rpc_requests_total{code="OK"} 0+100x120`, `agentd_rpc_requests_total{code="Internal"} 0+2x120`},
		[]string{`agentd_rpc_requests_total{code="OK"} 0+1000x120`, `agentd_rpc_requests_total{code="NotFound"} 0+500x120`, `agentd_rpc_requests_total{code="Internal"} 0+1x120`}},
	"AgentdDataLoss":    {[]string{`agentd_rpc_requests_total{code="DataLoss"} _x115 1x5`}, []string{`agentd_rpc_requests_total{code="DataLoss"} 3x120`}},
	"AgentdCommitsSlow": {histogram("agentd_commit_seconds", 97), histogram("agentd_commit_seconds", 100)},
	"AgentdDiskSlow":    {histogram("agentd_log_sync_seconds", 97), histogram("agentd_log_sync_seconds", 100)},
	"AgentdApplyLags":   {[]string{`agentd_apply_lag_entries{shard="1"} 20000x120`}, []string{`agentd_apply_lag_entries{shard="1"} 5000x120`}},
	"AgentdLogGrows":    {[]string{`agentd_log_bytes 9e9x120`}, []string{`agentd_log_bytes 1e9x120`}},
	"AgentdDiskFillsUp": {[]string{`agentd_disk_free_bytes 100e9-100e6x120`}, []string{`agentd_disk_free_bytes 100e9x120`}},
	"AgentdReplicaGap":  {[]string{`agentd_replica_gaps_total 0x115 1x5`}, []string{`agentd_replica_gaps_total 1x120`}},
	"AgentdQuarantined": {[]string{`agentd_agent_events_total{event="quarantined"} _x115 1x5`}, []string{`agentd_agent_events_total{event="quarantined"} 5x120`, `agentd_agent_events_total{event="activated"} 0+5x120`}},
	"AgentdResets":      {[]string{`agentd_agent_events_total{event="reset"} 0+5x120`}, []string{`agentd_agent_events_total{event="reset"} 0+1x120`}},
	"AgentdOverloaded":  {[]string{`agentd_mailbox_refused_total 0+600x120`}, []string{`agentd_mailbox_refused_total 0+6x120`}},
	"AgentdWakesLate":   {histogram("agentd_wake_late_seconds", 97), histogram("agentd_wake_late_seconds", 100)},
	"AgentdDescriptors": {[]string{`process_open_fds{job="agentd"} 900x120`, `process_max_fds{job="agentd"} 1000x120`}, []string{`process_open_fds{job="agentd"} 500x120`, `process_max_fds{job="agentd"} 1000x120`}},
	"AgentdCertificateExpires": {[]string{`agentd_certificate_expiry_timestamp_seconds{use="peer"} 864000x120`},
		[]string{`agentd_certificate_expiry_timestamp_seconds{use="peer"} 8640000x120`}},
	"AgentdVersionsDiffer": {[]string{`agentd_build_info{version="1",instance="1"} 1x120`, `agentd_build_info{version="2",instance="2"} 1x120`}, []string{`agentd_build_info{version="1",instance="1"} 1x120`, `agentd_build_info{version="1",instance="2"} 1x120`}},
}

// series writes one series for each row of values.
func series(name string, values ...string) []string {
	var all []string
	for i, v := range values {
		all = append(all, fmt.Sprintf(name, strconv.Itoa(i))+" "+v)
	}
	return all
}

// histogram has 100 observations a minute, of which fast end in the lowest bucket and
// the others take 100 s.
func histogram(name string, fast int) []string {
	return []string{
		fmt.Sprintf(`%s_bucket{le="0.01"} 0+%dx120`, name, fast),
		fmt.Sprintf(`%s_bucket{le="100"} 0+100x120`, name),
		fmt.Sprintf(`%s_bucket{le="+Inf"} 0+100x120`, name),
	}
}

func TestAlerts_AreRaisedWhenTheyShouldBe(t *testing.T) {
	all := rules(t)
	for _, r := range all {
		test, ok := alertCases[r.Alert]
		if !ok {
			t.Errorf("%s has no test", r.Alert)
			continue
		}
		if n := evaluate(t, r.Expr, test.raise); n == 0 {
			t.Errorf("%s is not raised by %v", r.Alert, test.raise)
		}
		if n := evaluate(t, r.Expr, test.quiet); n != 0 {
			t.Errorf("%s is raised by %v", r.Alert, test.quiet)
		}
	}
	if len(all) != len(alertCases) {
		t.Errorf("%d alerts and %d tests", len(all), len(alertCases))
	}
}

// evaluate is how many series the expression has after two hours.
func evaluate(t *testing.T, expr string, series []string) int {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n\t"+strings.Join(series, "\n\t")+"\n")
	defer storage.Close()
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 100000)
	query, err := engine.NewInstantQuery(context.Background(), storage, promql.NewPrometheusQueryOpts(false, 5*time.Minute), expr, time.Unix(0, 0).Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	vector, err := query.Exec(context.Background()).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return len(vector)
}

// TestChart_ShipsTheRulesUnchanged: the operator's form of the rules is the same.
func TestChart_ShipsTheRulesUnchanged(t *testing.T) {
	all := mustRender(t, values(t, "prometheusRule: {enabled: true}"))
	rule := get[monitoring.PrometheusRule](t, all, "PrometheusRule/agentd")
	var want monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(read(t, "observability", "alerts.yaml"), &want); err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(text) {
		t.Errorf("the chart's rules differ:\n%s", got)
	}
}
