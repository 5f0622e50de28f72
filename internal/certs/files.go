package certs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"agentd/pkg/agent"
)

// maxFileBytes bounds a file of certificates or keys; a certificate is about 1 KB.
const maxFileBytes = 256 << 10

// file is a name in a folder and its contents.
type file struct {
	name string
	data []byte
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing can be lost
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = &agent.Error{Op: "read certificates", Kind: agent.TooLarge, Msg: fmt.Sprintf("%s has more than %d bytes", path, maxFileBytes)}
	}
	return data, err
}

// writeNew makes the files, durably and with mode 0600, and dir if it is absent. It
// overwrites nothing and takes back what it made when it fails.
func writeNew(dir string, files []file) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for certificates: %w", err)
	}
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range made {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if os.IsExist(err) {
			return &agent.Error{Op: "write certificates", Kind: agent.Conflict, Msg: path + " exists already and is not overwritten"}
		}
		if err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
		made = append(made, path)
		if err := fill(out, f.data); err != nil {
			return fmt.Errorf("write certificates: %w", err)
		}
	}
	return syncDir(dir)
}

// replace puts each file in the place of an older one, so that a reader sees one or
// the other. Readers keep the old set until all files fit together.
func replace(dir string, files []file) error {
	for _, f := range files {
		if err := replaceOne(dir, f); err != nil {
			return fmt.Errorf("replace certificates: %w", err)
		}
	}
	return syncDir(dir)
}

func replaceOne(dir string, f file) error {
	out, err := os.CreateTemp(dir, f.name+".*") // mode 0600
	if err != nil {
		return err
	}
	err = fill(out, f.data)
	if err == nil {
		err = os.Rename(out.Name(), filepath.Join(dir, f.name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(out.Name()))
	}
	return nil
}

// fill writes and closes a file; the bytes are on disk when it returns.
func fill(out *os.File, data []byte) error {
	_, err := out.Write(data)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write certificates: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
