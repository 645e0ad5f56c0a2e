// Package regs has the registers of the Intel 82599: one table with their places and how they behave, used by the driver for names in its
// messages and by the model that the driver is tested on, and the constants with Intel's names.
//
// Source: Intel 82599 10 GbE Controller Datasheet, chapter 8; the section numbers in the table are its. Offsets are bytes from the start of BAR 0.
package regs
