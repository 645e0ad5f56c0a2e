#include "textflag.h"

// Layout of Move.
#define DST  0
#define SRC  8
#define LOW  16
#define HIGH 24
#define LEN  32
#define SKIP 36
#define SIZE 40

// Moves whose lines are fetched for writing ahead of the one being made.
#define AHEAD 6

// func moveAVX2(m *Move, n int)
TEXT ·moveAVX2(SB), NOSPLIT, $0-16
	MOVQ m+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ CX, R15
	MOVQ DI, R14
	CMPQ R15, $AHEAD
	JBE  primeAll
	MOVQ $AHEAD, R15

primeAll:
	MOVQ DST(R14), R8
	MOVL SKIP(R14), R11
	PREFETCHT0 (R8)
	ADDQ R11, R8
	BYTE $0x41; BYTE $0x0F; BYTE $0x0D; BYTE $0x08 // PREFETCHW (R8)
	ADDQ $SIZE, R14
	DECQ R15
	JNZ  primeAll

next:
	// A move that is AHEAD of this one.
	CMPQ CX, $AHEAD
	JBE  header
	MOVQ (AHEAD*SIZE+DST)(DI), R8
	MOVL (AHEAD*SIZE+SKIP)(DI), R11
	PREFETCHT0 (R8)
	ADDQ R11, R8
	BYTE $0x41; BYTE $0x0F; BYTE $0x0D; BYTE $0x08 // PREFETCHW (R8)

header:
	MOVQ DST(DI), R8
	MOVQ SRC(DI), R9
	MOVL LEN(DI), R10
	MOVL SKIP(DI), R11
	MOVQ (R8), AX
	CMPL R11, $12
	JNE  ten
	MOVL 8(R8), BX
	XORL $0x10000, BX
	ORQ  BX, AX
	JZ   payload
	MOVQ $0, (R8)
	MOVL $0x10000, 8(R8)
	JMP  payload

ten:
	MOVWLZX 8(R8), BX
	ORQ  BX, AX
	JZ   payload
	MOVQ $0, (R8)
	MOVW $0, 8(R8)

payload:
	ADDQ R11, R8 // the frame's place
	LEAQ (R9)(R10*1), R12 // ends
	LEAQ (R8)(R10*1), R13
	CMPL R10, $32
	JB   tiny
	CMPL R10, $64
	JBE  upTo64
	CMPL R10, $128
	JBE  upTo128

	// The last 128 bytes first loaded, last stored; before them whole blocks.
	VMOVDQU -128(R12), Y4
	VMOVDQU -96(R12), Y5
	VMOVDQU -64(R12), Y6
	VMOVDQU -32(R12), Y7
	SUBL $128, R10

blocks:
	VMOVDQU (R9), Y0
	VMOVDQU 32(R9), Y1
	VMOVDQU 64(R9), Y2
	VMOVDQU 96(R9), Y3
	VMOVDQU Y0, (R8)
	VMOVDQU Y1, 32(R8)
	VMOVDQU Y2, 64(R8)
	VMOVDQU Y3, 96(R8)
	ADDQ $128, R9
	ADDQ $128, R8
	SUBL $128, R10
	JA   blocks
	VMOVDQU Y4, -128(R13)
	VMOVDQU Y5, -96(R13)
	VMOVDQU Y6, -64(R13)
	VMOVDQU Y7, -32(R13)
	MOVL LEN(DI), R10
	MOVQ R13, R8
	SUBQ R10, R8
	JMP  ethernet

upTo128:
	VMOVDQU (R9), Y0
	VMOVDQU 32(R9), Y1
	VMOVDQU -64(R12), Y2
	VMOVDQU -32(R12), Y3
	VMOVDQU Y0, (R8)
	VMOVDQU Y1, 32(R8)
	VMOVDQU Y2, -64(R13)
	VMOVDQU Y3, -32(R13)
	JMP  ethernet

upTo64:
	VMOVDQU (R9), Y0
	VMOVDQU -32(R12), Y1
	VMOVDQU Y0, (R8)
	VMOVDQU Y1, -32(R13)
	JMP  ethernet

tiny: // 14 to 31 bytes
	CMPL R10, $16
	JB   bytes
	VMOVDQU (R9), X0
	VMOVDQU -16(R12), X1
	VMOVDQU X0, (R8)
	VMOVDQU X1, -16(R13)
	JMP  ethernet

bytes: // 14 or 15
	CMPL R10, $15
	JNE  ethernet
	MOVB 14(R9), AX
	MOVB AX, 14(R8)

ethernet: // what was judged goes over what was copied
	MOVQ LOW(DI), AX
	MOVQ HIGH(DI), BX
	MOVQ AX, (R8)
	MOVQ BX, 6(R8)
	ADDQ $SIZE, DI
	DECQ CX
	JNZ  next
	VZEROUPPER
	RET

// func Prefetch(first *Ptr, n, stride, off int)
TEXT ·Prefetch(SB), NOSPLIT, $0-32
	MOVQ first+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ stride+16(FP), DX
	MOVQ off+24(FP), SI
	TESTQ CX, CX
	JLE  done

line:
	MOVQ (DI), AX
	PREFETCHT0 (AX)(SI*1)
	ADDQ DX, DI
	DECQ CX
	JNZ  line

done:
	RET

// func PrefetchLine(p Ptr)
TEXT ·PrefetchLine(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	PREFETCHT0 (AX)
	RET
