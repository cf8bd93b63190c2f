{name}
