package sysedit

import (
	"errors"
	"fmt"
)

// Revert puts back what Apply of this plan changed, for when something that must come with it has failed. What was applied under the same
// name before stays, and can still be undone. A file that was changed since is not overwritten: ErrChanged.
func (p *Plan) Revert() error {
	if p.Empty() {
		return nil
	}
	if p.undo {
		return errors.New("an undo cannot be reverted: apply the edit again")
	}
	unlock, err := p.store.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.expect(func(c change) found { return c.new }, "it is left as it is"); err != nil {
		return err
	}
	reverted := errors.New("reverted")
	if err := p.rollBack(p.changes, reverted); err != reverted {
		return err
	}
	return nil
}

// expect wants the files to be as they should be: one that somebody changed since is ErrChanged, and then says what becomes of it.
func (p *Plan) expect(should func(change) found, then string) error {
	for _, c := range p.changes {
		now, err := look(c.real)
		if err != nil {
			return err
		}
		if !(change{old: now, new: should(c)}).none() {
			return fmt.Errorf("%s: %w; %s", c.path, ErrChanged, then)
		}
	}
	return nil
}
