# Reset vector and trap vector. Hart 0 runs MicroPython, any other hart sleeps for good.

    .section .start, "ax"
    .globl  _start
_start:
    csrw    mie, zero
    csrr    t0, mhartid
    bnez    t0, park
    la      t0, trap_entry
    csrw    mtvec, t0
    la      sp, _estack

    la      a0, _sidata
    la      a1, _sdata
    la      a2, _edata
1:  bgeu    a1, a2, 2f
    lw      t0, 0(a0)
    sw      t0, 0(a1)
    addi    a0, a0, 4
    addi    a1, a1, 4
    j       1b

2:  la      a1, _sbss
    la      a2, _ebss
3:  bgeu    a1, a2, 4f
    sw      zero, 0(a1)
    addi    a1, a1, 4
    j       3b

4:  call    main

    .balign 4
park:
    wfi
    j       park

# Interrupts are never enabled (wfi wakes without), so a trap is always an error. A second
# one, inside port_trap, must not start all over: it parks.
    .balign 4
trap_entry:
    la      t0, park
    csrw    mtvec, t0
    csrr    a0, mcause
    csrr    a1, mepc
    csrr    a2, mtval
    la      sp, _estack
    j       port_trap
