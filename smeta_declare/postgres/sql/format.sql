select format from {journal}.history;
