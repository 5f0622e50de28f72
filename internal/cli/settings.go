package cli

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
)

// settingTag marks the flags that may also come from the environment and from the
// configuration file.
const settingTag = "setting"

// origin says where a setting came from, for precedence and for error messages.
type origin struct {
	rank int    // rankFile or rankEnv; what is typed has no origin
	text string // "AGENTD_ADDR" or "agentd.yaml:3"
}

const (
	rankFile = iota + 1
	rankEnv
	rankFlag
)

// envName is the environment variable of a flag: AGENTD_MAX_LIVE of --max-live.
func envName(flag string) string {
	return "AGENTD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// describeSetting is a flag's help with its environment variable.
func describeSetting(value *kong.Value) string {
	if value.Flag == nil || !value.Tag.Has(settingTag) {
		return value.Help
	}
	return strings.TrimSuffix(value.Help, ".") + " ($" + envName(value.Name) + ")."
}

// resolveSettings adds, below what was typed, first the environment and then the
// configuration file.
func (s *session) resolveSettings(command *kong.Context) error {
	path, ok := s.configPath(command)
	if ok {
		file, err := readConfig(s.path(path), path, command.Model)
		if err != nil {
			return &usageError{msg: err.Error()}
		}
		command.AddResolver(s.resolver(rankFile, file.lookup))
	}
	// kong lets the last resolver win.
	command.AddResolver(s.resolver(rankEnv, func(flag string) (string, string, bool) {
		name := envName(flag)
		value, ok := s.Env(name)
		return value, name, ok && value != ""
	}))
	return nil
}

// configPath is the file that --config or AGENTD_CONFIG names, for commands that
// have that flag.
func (s *session) configPath(command *kong.Context) (string, bool) {
	for _, flag := range command.Flags() {
		if flag.Name != "config" {
			continue
		}
		if path, _ := command.FlagValue(flag).(string); path != "" {
			return path, true
		}
		path, _ := s.Env(envName("config"))
		return path, path != ""
	}
	return "", false
}

// resolver asks lookup for the settings among a command's flags.
func (s *session) resolver(rank int, lookup func(flag string) (value, where string, ok bool)) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if !flag.Tag.Has(settingTag) {
			return nil, nil
		}
		value, where, ok := lookup(flag.Name)
		if !ok {
			return nil, nil
		}
		if err := tryValue(flag, value); err != nil {
			return nil, fmt.Errorf("%w (from %s)", err, where)
		}
		s.from[flag.Name] = origin{rank: rank, text: where}
		return value, nil
	})
}

// tryValue parses a value as kong will, because only here it is known where the
// value came from.
func tryValue(flag *kong.Flag, value string) error {
	scratch := reflect.New(flag.Target.Type()).Elem()
	scan := kong.Scan().PushTyped(value, kong.FlagValueToken)
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, scratch); err != nil {
		return err
	}
	if flag.Enum != "" && !flag.EnumMap()[value] {
		return fmt.Errorf("must be one of %s but is %q", strings.Join(flag.EnumSlice(), ", "), value)
	}
	return nil
}

// rank orders two settings that exclude each other: what is said closer to the
// command wins.
func (s *session) rank(flag string) int {
	if o, ok := s.from[flag]; ok {
		return o.rank
	}
	return rankFlag
}
