package sandbox

import "strings"

// Bounds of a program's shape. goja's parser and compiler recurse on the Go stack,
// whose overflow would end the process: brackets nest at some kilobytes a level,
// operators and statements without an end at less.
const (
	maxBrackets  = 2_000
	maxStatement = 100_000 // tokens of one statement, without what its brackets hold
)

// nestingOf scans a program roughly, as tokens, and says whether it may be parsed;
// line is where it is nested too deeply. Text that it misreads can only make it
// count more or fewer tokens, by a constant factor.
func nestingOf(src string) (line int, ok bool) {
	s := shape{src: src, line: 1, levels: make([]int, 1, 64)}
	for s.at < len(src) {
		if !s.token() {
			return s.line, false
		}
	}
	return 0, true
}

type shape struct {
	src       string
	at, line  int
	levels    []int // tokens of the statement under way, one for each open bracket
	value     bool  // the last token ended a value, so that "/" divides
	templates []int // depths at which "${" was opened
}

// count adds a token to the statement under way.
func (s *shape) count() bool {
	top := len(s.levels) - 1
	s.levels[top]++
	return s.levels[top] <= maxStatement
}

func (s *shape) token() bool {
	c := s.src[s.at]
	switch {
	case c == '\n':
		s.line++
		s.at++
		return true
	case c == ' ' || c == '\t' || c == '\r':
		s.at++
		return true
	case c == '/':
		return s.slash()
	case c == '"' || c == '\'':
		s.quoted(c)
		s.value = true
		return s.count()
	case c == '`':
		s.at++
		return s.template()
	case wordByte(c):
		return s.word()
	}
	s.at++
	return s.punctuator(c)
}

func wordByte(c byte) bool {
	return c == '_' || c == '$' || c == '#' || c >= 0x80 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func (s *shape) word() bool {
	start := s.at
	for s.at < len(s.src) && wordByte(s.src[s.at]) {
		s.at++
	}
	if s.at-start > maxDigits {
		return false
	}
	switch s.src[start:s.at] {
	case "return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "else", "do", "instanceof", "await", "yield":
		s.value = false
	default:
		s.value = true
	}
	return s.count()
}

func (s *shape) punctuator(c byte) bool {
	top := len(s.levels) - 1
	switch c {
	case '(', '[', '{':
		s.value = false
		if !s.count() {
			return false
		}
		s.levels = append(s.levels, 0)
		return len(s.levels) <= maxBrackets
	case ')', ']', '}':
		s.value = c != '}'
		if top > 0 {
			s.levels = s.levels[:top]
		}
		if n := len(s.templates); c == '}' && n > 0 && s.templates[n-1] == len(s.levels) {
			s.templates = s.templates[:n-1]
			return s.template()
		}
		if c == '}' && s.statementEnds() {
			s.levels[len(s.levels)-1] = 0
		}
		return true
	case ';', ',':
		s.levels[top] = 0
		s.value = false
		return true
	}
	s.value = false
	return s.count()
}

// statementEnds says whether what follows a closing brace starts something new.
func (s *shape) statementEnds() bool {
	rest := strings.TrimLeft(s.src[s.at:min(len(s.src), s.at+64)], " \t\r\n")
	if rest == "" || !wordByte(rest[0]) {
		return false
	}
	for _, word := range []string{"else", "in", "instanceof", "of"} {
		if after, ok := strings.CutPrefix(rest, word); ok && (after == "" || !wordByte(after[0])) {
			return false
		}
	}
	return true
}

func (s *shape) quoted(end byte) {
	for s.at++; s.at < len(s.src); s.at++ {
		switch s.src[s.at] {
		case '\\':
			s.at++
		case '\n':
			return // not a string after all
		case end:
			s.at++
			return
		}
	}
}

// template reads up to the end of a template or its next "${".
func (s *shape) template() bool {
	for ; s.at < len(s.src); s.at++ {
		switch c := s.src[s.at]; {
		case c == '\\':
			s.at++
		case c == '\n':
			s.line++
		case c == '`':
			s.at++
			s.value = true
			return s.count()
		case c == '$' && strings.HasPrefix(s.src[s.at:], "${"):
			s.at += 2
			s.templates = append(s.templates, len(s.levels))
			s.levels = append(s.levels, 0)
			s.value = false
			return len(s.levels) <= maxBrackets
		}
	}
	return true
}

// slash reads a comment, a regular expression or a division.
func (s *shape) slash() bool {
	rest := s.src[s.at:]
	switch {
	case strings.HasPrefix(rest, "//"):
		if n := strings.IndexByte(rest, '\n'); n >= 0 {
			s.at += n
		} else {
			s.at = len(s.src)
		}
		return true
	case strings.HasPrefix(rest, "/*"):
		n := strings.Index(rest[2:], "*/")
		if n < 0 {
			s.at = len(s.src)
			return true
		}
		s.line += strings.Count(rest[:n+4], "\n")
		s.at += n + 4
		return true
	case s.value:
		s.at++
		s.value = false
		return s.count()
	}
	s.value = true
	return s.pattern()
}

// pattern reads a regular expression literal; its groups must not nest deeply.
func (s *shape) pattern() bool {
	depth, class := 0, false
	start := s.at
	for s.at++; s.at < len(s.src); s.at++ {
		switch c := s.src[s.at]; {
		case c == '\n':
			s.at = start + 1 // a division after all
			s.value = false
			return s.count()
		case c == '\\':
			s.at++
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '(':
			if depth++; depth > maxGroups {
				return false
			}
		case c == ')':
			depth--
		case c == '/':
			s.at++
			return s.at-start <= maxPattern && s.count()
		}
	}
	return true
}
