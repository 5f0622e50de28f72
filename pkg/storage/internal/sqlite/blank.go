package sqlite

import "bytes"

// Blank says whether text (which may end with a NUL) holds no statement: only
// blanks, semicolons and comments. A comment that is not closed reaches to the end.
func Blank(text []byte) bool {
	for len(text) > 0 {
		switch text[0] {
		case 0:
			return true
		case ';':
			text = text[1:]
		case ' ', '\t', '\n', '\f', '\r':
			text = bytes.TrimLeft(text, " \t\n\f\r\v") // a vertical tab cannot begin a blank
		case '-':
			if !bytes.HasPrefix(text, []byte("--")) {
				return false
			}
			end := bytes.IndexByte(text, '\n')
			if nul := bytes.IndexByte(text, 0); end < 0 || (nul >= 0 && nul < end) {
				return true
			}
			text = text[end:]
		case '/':
			// SQLite takes the slash and star at the very end for two operators.
			if len(text) < 3 || text[1] != '*' || text[2] == 0 {
				return false
			}
			end := bytes.Index(text[2:], []byte("*/"))
			if nul := bytes.IndexByte(text, 0); end < 0 || (nul >= 0 && nul < end+2) {
				return true
			}
			text = text[2+end+2:]
		case 0xEF: // SQLite takes a byte order mark for a blank
			if !bytes.HasPrefix(text, []byte("\ufeff")) {
				return false
			}
			text = text[3:]
		default:
			return false
		}
	}
	return true
}
