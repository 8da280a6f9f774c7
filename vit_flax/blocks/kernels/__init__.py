"""Operations that XLA compiles badly for some platform, in the form that is fast there."""
