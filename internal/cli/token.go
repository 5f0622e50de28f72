package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/auth"
)

type tokenCommands struct {
	New   tokenNewCommand   `cmd:"" help:"Make a token and print it, once."`
	Check tokenCheckCommand `cmd:"" help:"Check a file of tokens and list what is in it."`
}

type tokenNewCommand struct {
	Name       string   `required:"" placeholder:"NAME" help:"Name of the token, for logs and messages."`
	Namespaces []string `required:"" placeholder:"NAME,…" help:"Namespaces that it may use, or * for all."`
	Services   []string `default:"*" placeholder:"NAME,…" help:"Services that it may use: agent, fiber, workspace, code, workflow, class, cluster; default * for all."`
	Access     string   `default:"write" enum:"read,write,admin" placeholder:"LEVEL" help:"read, write (default) or admin."`
	Expires    string   `placeholder:"WHEN" help:"When it ends: 90d, 12h, 2027-01-01 or 2027-01-01T00:00:00Z; default never."`
	Out        string   `short:"o" placeholder:"FILE" help:"File of tokens to add the entry to, made when absent; default: the entry is printed on standard error."`
	output
}

// Run prints the token only after its entry is where it belongs.
func (c *tokenNewCommand) Run(s *session) error {
	access, _ := auth.ParseAccess(c.Access) // kong has checked it
	expires, err := parseEnd(c.Expires, s.Now())
	if err != nil {
		return err
	}
	token, entry, err := auth.NewToken(auth.TokenSpec{Name: c.Name, Namespaces: c.Namespaces, Services: c.Services, Access: access, Expires: expires}, rand.Reader)
	if agent.KindOf(err) == agent.Invalid {
		return &usageError{msg: err.Error(), cause: err}
	}
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := addToken(s.path(c.Out), entry); err != nil {
			return err
		}
	} else if !s.json {
		if _, err := fmt.Fprint(s.Stderr, "tokens:\n", entry); err != nil {
			return err
		}
	}
	if s.json {
		return s.printValue(map[string]string{"name": c.Name, "token": token, "entry": entry})
	}
	return s.say("%s", token)
}

// parseEnd reads a point in time or a time from now; empty is never.
func parseEnd(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var at time.Time
	days, isDays := strings.CutSuffix(text, "d")
	n, daysErr := strconv.ParseUint(days, 10, 16)
	d, durationErr := time.ParseDuration(text)
	switch {
	case isDays && daysErr == nil:
		at = now.AddDate(0, 0, int(n))
	case durationErr == nil:
		at = now.Add(d)
	default:
		var err error
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if at, err = time.Parse(layout, text); err == nil {
				break
			}
		}
		if err != nil {
			return at, &usageError{msg: fmt.Sprintf("--expires: %.60q is no time: write 90d, 12h, 2027-01-01 or 2027-01-01T00:00:00Z", text)}
		}
	}
	if !at.After(now) {
		return at, &usageError{msg: "--expires is in the past"}
	}
	return at.Truncate(time.Second), nil
}

// addToken adds an entry to a file of tokens. The file is replaced whole, and only if
// the new one can be used.
func addToken(path, entry string) error {
	text, err := readTokens(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte("tokens: []\n"), nil
	}
	if err != nil {
		return err
	}
	if err := auth.CheckTokens(text, path); err != nil {
		return err
	}
	after := withEntry(string(text), entry)
	if err := auth.CheckTokens([]byte(after), path); err != nil {
		return fmt.Errorf("the entry cannot be added: %w", err)
	}
	return replaceFile(path, []byte(after))
}

// withEntry puts an entry at the end of the list.
func withEntry(text, entry string) string {
	head, found := strings.CutSuffix(strings.TrimRight(text, " \n"), "[]")
	if found {
		return strings.TrimRight(head, " ") + "\n" + entry
	}
	return strings.TrimRight(text, "\n") + "\n" + entry
}

// readTokens reads a file of tokens, at most one byte more than is allowed.
func readTokens(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing can be lost
	return io.ReadAll(io.LimitReader(f, auth.MaxTokensFileBytes+1))
}

// replaceFile puts data in the place of a file, durably; a reader sees the old or the
// new one. It keeps the file's mode; a new file is its owner's alone.
func replaceFile(path string, data []byte) (err error) {
	mode := fs.FileMode(0o600)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	_, err = out.Write(data)
	if err == nil {
		err = errors.Join(out.Chmod(mode), out.Sync())
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}

type tokenCheckCommand struct {
	File string `arg:"" placeholder:"FILE" help:"File of tokens."`
	output
}

// tokenLine is the JSON form; its names are part of the interface.
type tokenLine struct {
	Name       string     `json:"name"`
	Namespaces []string   `json:"namespaces"`
	Services   []string   `json:"services"`
	Access     string     `json:"access"`
	Expires    *time.Time `json:"expires,omitempty"`
	Expired    bool       `json:"expired"`
}

// Run fails with the line of what is wrong.
func (c *tokenCheckCommand) Run(s *session) error {
	text, err := readTokens(s.path(c.File))
	if err != nil {
		return err
	}
	all, err := auth.ReadTokens(text, c.File)
	if err != nil {
		return err
	}
	lines := make([]tokenLine, len(all))
	for i, t := range all {
		lines[i] = tokenLine{Name: t.Name, Namespaces: t.Namespaces, Services: t.Services, Access: t.Access.String()}
		if !t.Expires.IsZero() {
			lines[i].Expires, lines[i].Expired = &t.Expires, !s.Now().Before(t.Expires)
		}
	}
	if s.json {
		return s.printValue(lines)
	}
	t := newTable(s.Stdout)
	t.row("TOKEN", "NAMESPACES", "SERVICES", "ACCESS", "EXPIRES")
	for _, l := range lines {
		end := "never"
		if l.Expires != nil {
			end = l.Expires.UTC().Format(time.RFC3339)
		}
		if l.Expired {
			end += " (expired)"
		}
		t.row(l.Name, strings.Join(l.Namespaces, ","), strings.Join(l.Services, ","), l.Access, end)
	}
	return t.flush()
}
