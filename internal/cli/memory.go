package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
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

// defaultMemoryPercent is the share that --memory has by default.
const defaultMemoryPercent = 70

// bytes is the amount on this machine; 0 leaves it to the node, which guesses. It
// fails when another share is asked of a machine that does not say what it has.
func (m memorySize) bytes() (uint64, error) {
	if m.percent == 0 {
		return m.amount, nil
	}
	have := memoryLimit()
	if have == 0 && m.percent == defaultMemoryPercent {
		return 0, nil
	}
	if have == 0 {
		return 0, errors.New("this system does not tell how much memory there is: write a size, such as 2GiB")
	}
	return uint64(float64(have) / 100 * m.percent), nil
}
