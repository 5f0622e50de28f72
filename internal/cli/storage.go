package cli

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage/engine"
)

// storageCommands look into a data folder whose server is stopped.
type storageCommands struct {
	Verify storageVerifyCommand `cmd:"" help:"Check the log, the catalog and every page of every agent's file."`
	Dump   storageDumpCommand   `cmd:"" help:"Write an agent's database as a plain SQLite file."`
	Stats  storageStatsCommand  `cmd:"" help:"Show how much there is in the log, the catalog and the files."`
}

// dataFolder is embedded by commands on a folder that no server uses.
type dataFolder struct {
	Data string `setting:"" placeholder:"DIR" help:"Data folder of a server that is not running. Required."`
	configured
	output
}

// folder is what Data says, checked.
func (c *dataFolder) folder(s *session) (single.Config, error) {
	if c.Data == "" {
		return single.Config{}, &usageError{msg: "a data folder is needed: --data DIR, AGENTD_DATA, or `data: DIR` in the configuration file"}
	}
	return single.Config{Dir: s.path(c.Data), Existing: true, Now: s.Now, Log: slog.New(slog.DiscardHandler)}, nil
}

type storageVerifyCommand struct{ dataFolder }

// verifyResult is the JSON form; its names are part of the interface.
type verifyResult struct {
	Agents   int             `json:"agents"`
	Files    int             `json:"files"`
	Pages    int64           `json:"pages"`
	Batches  int             `json:"log_batches"`
	Entries  int             `json:"log_entries"`
	TornTail bool            `json:"log_torn_tail"`
	Problems []verifyProblem `json:"problems"`
}

type verifyProblem struct {
	Path  string `json:"path"`
	Agent string `json:"agent,omitempty"`
	What  string `json:"what"`
}

// maxProblems is what verify prints; the number of all is exact.
const maxProblems = 1000

// Run fails with kind Corrupt if there is a problem.
func (c *storageVerifyCommand) Run(ctx context.Context, s *session) error {
	cfg, err := c.folder(s)
	if err != nil {
		return err
	}
	result := verifyResult{Problems: []verifyProblem{}}
	found := 0
	v, err := single.Verify(ctx, cfg, func(p engine.Problem) {
		if found++; found > maxProblems {
			return
		}
		problem := verifyProblem{Path: p.Path, What: p.What}
		if !p.Agent.IsZero() {
			problem.Agent = p.Agent.Key()
		}
		result.Problems = append(result.Problems, problem)
	})
	if err != nil {
		return err
	}
	result.Agents, result.Files, result.Pages = v.Agents, v.Files, v.Pages
	result.Batches, result.Entries, result.TornTail = v.Log.Batches, v.Log.Entries, v.Log.Torn
	if err := s.printVerified(result); err != nil {
		return err
	}
	if found > 0 {
		return &agent.Error{Op: "verify", Kind: agent.Corrupt, Msg: fmt.Sprintf("%d problems in %s", found, cfg.Dir)}
	}
	return nil
}

func (s *session) printVerified(r verifyResult) error {
	if s.json {
		return s.printValue(r)
	}
	for _, p := range r.Problems {
		if err := s.say("%s: %s%s", p.Path, p.What, inBrackets(p.Agent)); err != nil {
			return err
		}
	}
	torn := ""
	if r.TornTail {
		torn = " (its last write was cut short by a crash; nothing acknowledged was in it)"
	}
	return s.say("%d agents, %d files, %d pages; log: %d batches, %d entries%s", r.Agents, r.Files, r.Pages, r.Batches, r.Entries, torn)
}

func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

type storageDumpCommand struct {
	onAgent
	Namespace string `setting:"" default:"default" placeholder:"NAME" help:"Namespace of the agent, default \"default\"."`
	Out       string `short:"o" required:"" placeholder:"FILE" help:"File to write; it must not exist."`
	dataFolder
}

// Run writes the file as of the agent's last durable commit.
func (c *storageDumpCommand) Run(ctx context.Context, s *session) error {
	cfg, err := c.folder(s)
	if err != nil {
		return err
	}
	id := agent.ID{Namespace: c.Namespace, Class: c.Agent.class, Name: c.Agent.name}
	out := s.path(c.Out)
	if err := single.Dump(ctx, cfg, id, out); err != nil {
		return err
	}
	if s.json {
		return s.printValue(map[string]string{"agent": c.Agent.String(), "file": out})
	}
	return s.say("%s was written to %s", c.Agent, out)
}

type storageStatsCommand struct{ dataFolder }

// storageStats is the JSON form; its names are part of the interface.
type storageStats struct {
	Agents       int    `json:"agents"`
	LogBytes     int64  `json:"log_bytes"`
	LogLiveBytes int64  `json:"log_live_bytes"`
	LogEntries   int    `json:"log_entries"`
	LogSegments  int    `json:"log_segments"`
	LogSpares    int    `json:"log_spare_segments"`
	LogDirect    bool   `json:"log_direct"`
	LogFull      bool   `json:"log_full"`
	Damaged      []int  `json:"damaged_shards"`
	Folder       string `json:"folder_id"`
}

// Run opens the folder, which applies its log, and prints what there is.
func (c *storageStatsCommand) Run(ctx context.Context, s *session) error {
	cfg, err := c.folder(s)
	if err != nil {
		return err
	}
	store, err := single.Open(ctx, cfg)
	if err != nil {
		return err
	}
	agents, err := store.Catalog().Count(ctx)
	st := store.Stats()
	r := storageStats{Agents: agents, LogBytes: st.Log.Bytes, LogLiveBytes: st.Log.LiveBytes, LogEntries: st.Log.Entries,
		LogSegments: st.Log.Segments, LogSpares: st.Log.Spares, LogDirect: st.Log.Direct, LogFull: st.Log.Full,
		Damaged: []int{}, Folder: store.ID()}
	for shard := range store.Shards() {
		if store.Damage(shard) != nil {
			r.Damaged = append(r.Damaged, shard)
		}
	}
	if closeErr := store.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return s.printStorage(r)
}

func (s *session) printStorage(r storageStats) error {
	if s.json {
		return s.printValue(r)
	}
	t := newTable(s.Stdout)
	t.row("folder", r.Folder)
	t.row("agents", fmt.Sprint(r.Agents))
	t.row("log", fmt.Sprintf("%s in %d segments, %d spare; %s in %d entries since the last checkpoint", size(r.LogBytes), r.LogSegments, r.LogSpares, size(r.LogLiveBytes), r.LogEntries))
	t.row("log writes", map[bool]string{true: "direct, synced", false: "through the page cache, synced"}[r.LogDirect])
	if r.LogFull {
		t.row("full", "yes: new data is refused until space is freed")
	}
	if len(r.Damaged) > 0 {
		slices.Sort(r.Damaged)
		t.row("damaged shards", fmt.Sprint(r.Damaged))
	}
	return t.flush()
}
