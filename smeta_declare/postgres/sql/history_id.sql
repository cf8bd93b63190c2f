select id::text, format from {journal}.history;
