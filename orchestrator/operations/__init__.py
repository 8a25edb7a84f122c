"""Operations: the doctor, backup and restore."""
