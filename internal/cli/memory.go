package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"agentd/internal/governor"
)

// memorySize is an amount of memory as the user writes it: a share of what the
// machine has, or bytes.
type memorySize struct {
	percent float64 // 0 if bytes are given
	amount  uint64
}

var units = []struct {
	suffix string
	bytes  float64
}{
	{"tib", 1 << 40}, {"gib", 1 << 30}, {"mib", 1 << 20}, {"kib", 1 << 10},
	{"tb", 1e12}, {"gb", 1e9}, {"mb", 1e6}, {"kb", 1e3},
	{"t", 1 << 40}, {"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}, {"b", 1},
}

// UnmarshalText reads 70%, 2GiB, 1.5G, 512MB or a number of bytes.
func (m *memorySize) UnmarshalText(text []byte) error {
	word := strings.ToLower(strings.TrimSpace(string(text)))
	bad := fmt.Errorf("%q is no amount of memory: write 70%%, 2GiB or 512MiB", text)
	number, factor, share := word, 1.0, false
	if cut, ok := strings.CutSuffix(word, "%"); ok {
		number, share = cut, true
	} else {
		for _, unit := range units {
			if cut, ok := strings.CutSuffix(word, unit.suffix); ok {
				number, factor = strings.TrimSpace(cut), unit.bytes
				break
			}
		}
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || !(value > 0) || math.IsInf(value, 0) {
		return bad
	}
	if share {
		if value > 100 {
			return fmt.Errorf("%q is more than the machine has", text)
		}
		*m = memorySize{percent: value}
		return nil
	}
	if value*factor > 1<<60 {
		return bad
	}
	*m = memorySize{amount: uint64(value * factor)}
	return nil
}

// bytes is the amount on this machine, or within the cgroup around this process.
func (m memorySize) bytes() uint64 {
	if m.percent == 0 {
		return m.amount
	}
	return uint64(float64(governor.MachineMemory()) / 100 * m.percent)
}
