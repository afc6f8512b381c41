# Adds up the numbers of one file into another: total.sh FROM TO
sum=0
while read -r number; do
    sum=$((sum + number))
done <"$1"
echo "$sum" | tee "$2"
